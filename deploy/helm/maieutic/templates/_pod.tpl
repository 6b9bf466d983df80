{{/* The pod of a component, given (dict "root" $ "component" component). */}}
{{- define "maieutic.pod" -}}
{{- $root := .root -}}
{{- $component := .component -}}
{{- $values := $component.values -}}
{{- $selector := include "maieutic.selector" (dict "root" $root "component" $component.name) -}}
metadata:
  labels:
    {{- $selector | nindent 4 }}
    {{- with $values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    # Settings are read when a process starts: a change starts new ones.
    checksum/settings: {{ include "maieutic.environment" . | sha256sum }}
    checksum/stores: {{ toJson $root.Values.stores | sha256sum }}
    {{- if $root.Values.telemetry.prometheus.enabled }}
    prometheus.io/scrape: "true"
    prometheus.io/port: {{ $root.Values.telemetry.prometheus.port | quote }}
    prometheus.io/path: /metrics
    {{- end }}
    {{- with $values.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ include "maieutic.serviceAccountName" $root }}
  automountServiceAccountToken: false
  # Else Kubernetes adds variables with addresses, named after Services: MAIEUTIC_GATEWAY_PORT.
  enableServiceLinks: false
  terminationGracePeriodSeconds: {{ include "maieutic.terminationSeconds" $component }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 10001
    runAsGroup: 10001
    fsGroup: 10001
    fsGroupChangePolicy: OnRootMismatch
    seccompProfile:
      type: RuntimeDefault
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . }}
    {{- end }}
  {{- end }}
  {{- range $field := list "priorityClassName" "nodeSelector" "tolerations" "affinity" }}
  {{- with get $values $field }}
  {{- dict $field . | toYaml | nindent 2 }}
  {{- end }}
  {{- end }}
  topologySpreadConstraints:
    {{- with $values.topologySpreadConstraints }}
    {{- toYaml . | nindent 4 }}
    {{- else }}
    {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
    - maxSkew: 1
      topologyKey: {{ . }}
      whenUnsatisfiable: ScheduleAnyway
      labelSelector:
        matchLabels:
          {{- $selector | nindent 10 }}
    {{- end }}
    {{- end }}
  containers:
    - name: {{ $component.service }}
      {{- include "maieutic.container" . | nindent 6 }}
  volumes:
    {{- include "maieutic.volumes" . | nindent 4 }}
{{- end -}}

{{- define "maieutic.container" -}}
{{- $root := .root -}}
{{- $component := .component -}}
{{- $values := $component.values -}}
image: {{ include "maieutic.image" $root | quote }}
imagePullPolicy: {{ $root.Values.image.pullPolicy }}
args: ["services.{{ $component.service }}.main"]
envFrom:
  - configMapRef:
      name: {{ include "maieutic.fullname" $root }}-{{ $component.name }}
{{- with $values.extraEnv }}
env:
  {{- toYaml . | nindent 2 }}
{{- end }}
ports:
  - name: grpc
    containerPort: {{ $component.port }}
  {{- if $root.Values.telemetry.prometheus.enabled }}
  - name: metrics
    containerPort: {{ $root.Values.telemetry.prometheus.port }}
  {{- end }}
{{ include "maieutic.probes" . }}
resources:
  {{- toYaml $values.resources | nindent 2 }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
volumeMounts:
  - name: secrets
    mountPath: /run/secrets/maieutic
    readOnly: true
  - name: tmp
    mountPath: /tmp
  {{- if $root.Values.tls.internal.existingSecret }}
  - name: tls
    mountPath: /run/secrets/maieutic-tls
    readOnly: true
  {{- end }}
  {{- if and (eq $component.service "gateway") $root.Values.tls.public.existingSecret }}
  - name: public-tls
    mountPath: /run/secrets/maieutic-public-tls
    readOnly: true
  {{- end }}
  {{- if include "maieutic.localIndex" $component }}
  - name: vectors
    mountPath: {{ include "maieutic.indexFolder" $values.index.url }}
  {{- end }}
{{- end -}}

{{/* local://var/x, local:///var/x and local:////var/x all mean /var/x. */}}
{{- define "maieutic.indexFolder" -}}
/{{ trimPrefix "local:" . | trimAll "/" }}
{{- end -}}

{{/*
Health says SERVING from the moment the server listens until it drains, and depends on no store: a
store that is away must not restart or hide every pod. Kubelet's gRPC probe speaks plain text only.
*/}}
{{- define "maieutic.probes" -}}
{{- $tls := .root.Values.tls -}}
{{- $secured := ternary $tls.public.existingSecret $tls.internal.existingSecret (eq .component.service "gateway") -}}
{{- $check := ternary (dict "tcpSocket" (dict "port" "grpc")) (dict "grpc" (dict "port" .component.port)) (ne $secured "") -}}
{{- /* The archive waits for its database, then migrates it; a new index at Pinecone takes time. */ -}}
{{- $waits := mul 2 (default 0 .component.values.migrateSeconds) -}}
{{- if include "maieutic.pinecone" .component -}}
{{- $waits = 180 -}}
{{- end -}}
{{- $start := add 60 $waits -}}
startupProbe:
  {{- toYaml $check | nindent 2 }}
  periodSeconds: 2
  timeoutSeconds: 2
  failureThreshold: {{ divf $start 2 | ceil }}
livenessProbe:
  {{- toYaml $check | nindent 2 }}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  {{- toYaml $check | nindent 2 }}
  periodSeconds: 5
  timeoutSeconds: 3
  failureThreshold: 2
{{- end -}}

{{- define "maieutic.volumes" -}}
{{- $root := .root -}}
{{- $component := .component -}}
{{- $values := $component.values -}}
- name: secrets
  projected:
    defaultMode: 0440
    sources:
      {{- include "maieutic.secretSources" . | nindent 6 }}
- name: tmp
  emptyDir:
    sizeLimit: 256Mi
{{- with $root.Values.tls.internal.existingSecret }}
- name: tls
  secret:
    secretName: {{ . }}
    defaultMode: 0440
{{- end }}
{{- if and (eq $component.service "gateway") $root.Values.tls.public.existingSecret }}
- name: public-tls
  secret:
    secretName: {{ $root.Values.tls.public.existingSecret }}
    defaultMode: 0440
{{- end }}
{{- if include "maieutic.localIndex" $component }}
- name: vectors
  {{- if $values.index.volume.enabled }}
  persistentVolumeClaim:
    claimName: {{ default (printf "%s-vectors" (include "maieutic.fullname" $root)) $values.index.volume.existingClaim }}
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- end }}
{{- end -}}
