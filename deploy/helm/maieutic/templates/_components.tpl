{{/*
What is deployed, as a list: each with its name, its service (the Python package), its port and its
values, over those of all pods. The workers of each lane are a component of their own.
*/}}
{{- define "maieutic.components" -}}
{{- $ports := include "maieutic.ports" . | fromYaml -}}
{{- $components := list -}}
{{- range list "gateway" "session" "retrieval" "persistence" -}}
{{- $merged := mergeOverwrite (deepCopy $.Values.pods) (get $.Values . | deepCopy) -}}
{{- $components = append $components (dict "name" . "service" . "port" (get $ports .) "values" $merged) -}}
{{- end -}}
{{- range $lane, $values := .Values.agents.lanes -}}
{{- if $values -}}{{/* null takes a lane away */}}
{{- $shared := omit $.Values.agents "lanes" | deepCopy -}}
{{- $merged := mergeOverwrite (deepCopy $.Values.pods) $shared (deepCopy $values) -}}
{{- $components = append $components (dict "name" (printf "agents-%s" $lane) "service" "agents" "port" $ports.agents "values" $merged) -}}
{{- end -}}
{{- end -}}
{{- toYaml $components -}}
{{- end -}}

{{/* Whether the component keeps its vectors in a folder, which one process may write. */}}
{{- define "maieutic.localIndex" -}}
{{- if and (eq .service "retrieval") (hasPrefix "local:" .values.index.url) -}}true{{- end -}}
{{- end -}}

{{/* Whether the component calls Pinecone, or Claude. */}}
{{- define "maieutic.pinecone" -}}
{{- if and (eq .service "retrieval") (hasPrefix "pinecone:" .values.index.url) -}}true{{- end -}}
{{- end -}}

{{- define "maieutic.claude" -}}
{{- if and (eq .service "agents") (eq .values.model "claude") -}}true{{- end -}}
{{- end -}}

{{/*
Seconds from SIGTERM to SIGKILL: what the service itself may take, and ten more for closing
connections and the last export of telemetry (three at most). Pods need no preStop hook: the
services themselves go on serving for a while after they have left the balancers.
*/}}
{{- define "maieutic.terminationSeconds" -}}
{{- $values := .values -}}
{{- $seconds := 10.0 -}}
{{- if eq .service "agents" -}}
{{- $seconds = addf $seconds $values.grace -}}
{{- else -}}
{{- $seconds = addf $seconds $values.drain.delay $values.drain.grace (default 0 $values.batchSeconds) -}}
{{- end -}}
{{- ceil $seconds -}}
{{- end -}}
