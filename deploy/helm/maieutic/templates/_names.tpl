{{/* Names and labels. */}}

{{- define "maieutic.fullname" -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name .Chart.Name) (contains .Chart.Name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "maieutic.serviceAccountName" -}}
{{- $made := ternary (include "maieutic.fullname" .) "default" .Values.serviceAccount.create -}}
{{- default $made .Values.serviceAccount.name -}}
{{- end -}}

{{- define "maieutic.image" -}}
{{- $tag := default .Chart.AppVersion .Values.image.tag -}}
{{- $version := ternary (printf "@%s" .Values.image.digest) (printf ":%s" $tag) (ne .Values.image.digest "") -}}
{{- printf "%s%s" .Values.image.repository $version -}}
{{- end -}}

{{- define "maieutic.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/part-of: maieutic
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* What selects the pods of a component, given (dict "root" $ "component" name). */}}
{{- define "maieutic.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* What gRPC dials: the headless Service names every pod, and the client takes turns. */}}
{{- define "maieutic.address" -}}
{{- $port := get (include "maieutic.ports" . | fromYaml) .service -}}
{{- $host := printf "%s-%s.%s.svc.%s" (include "maieutic.fullname" .root) .service .root.Release.Namespace .root.Values.clusterDomain -}}
{{- printf "dns:///%s:%v" $host $port -}}
{{- end -}}

{{- define "maieutic.ports" -}}
gateway: 50051
session: 50052
retrieval: 50053
persistence: 50054
agents: 50055
{{- end -}}
