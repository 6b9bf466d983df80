{{/*
The variables of a component, given (dict "root" $ "component" component); docs/configuration.md
explains each. Secrets come as files, so that they are in no manifest and no `kubectl describe`.
*/}}
{{- define "maieutic.environment" -}}
{{- $made := mergeOverwrite (include "maieutic.environment.common" . | fromYaml) (include (printf "maieutic.environment.%s" .component.service) . | fromYaml) -}}
{{- $known := .root.Files.Get "settings.json" | fromJson -}}
{{- range $name, $value := .component.values.env -}}
{{- if hasKey $made $name -}}
{{- fail (printf "%s.env: the chart itself sets %s: use the value that stands for it" $.component.name $name) -}}
{{- end -}}
{{- if not (has $name (get $known $.component.service)) -}}
{{- fail (printf "%s.env: the %s service has no setting %s, see docs/configuration.md" $.component.name $.component.service $name) -}}
{{- end -}}
{{- $_ := set $made $name $value -}}
{{- end -}}
{{- range $name := keys $made | sortAlpha }}
{{ $name }}: {{ include "maieutic.text" (get $made $name) | quote }}
{{- end }}
{{- end -}}

{{/* A value as the environment has it. Whole numbers reach templates as floats: 1.6777216e+07. */}}
{{- define "maieutic.text" -}}
{{- if and (kindIs "float64" .) (eq (floor .) .) -}}
{{- printf "%.0f" . -}}
{{- else -}}
{{- toString . -}}
{{- end -}}
{{- end -}}

{{- define "maieutic.environment.common" -}}
{{- $root := .root -}}
{{- $component := .component -}}
{{- $values := $component.values -}}
MAIEUTIC_SERVER_LISTEN: "{{ $root.Values.listenAddress }}:{{ $component.port }}"
MAIEUTIC_SIGNING_KEY_FILE: /run/secrets/maieutic/signing-key.pem
MAIEUTIC_TELEMETRY_SAMPLE_RATIO: {{ $root.Values.telemetry.sampleRatio }}
MAIEUTIC_TELEMETRY_LOG_LEVEL: {{ $root.Values.telemetry.logLevel }}
MAIEUTIC_TELEMETRY_VERSION: {{ default $root.Chart.AppVersion $root.Values.image.tag | quote }}
{{- with $root.Values.telemetry.endpoint }}
MAIEUTIC_TELEMETRY_ENDPOINT: {{ . | quote }}
{{- end }}
{{- if $root.Values.telemetry.prometheus.enabled }}
MAIEUTIC_TELEMETRY_METRICS_LISTEN: "{{ $root.Values.listenAddress }}:{{ $root.Values.telemetry.prometheus.port }}"
{{- end }}
{{- if eq $component.service "agents" }}
# Of its server nobody asks more than the health.
MAIEUTIC_SERVER_GRACE: 1
{{- else }}
MAIEUTIC_SERVER_DRAIN_DELAY: {{ $values.drain.delay }}
MAIEUTIC_SERVER_GRACE: {{ $values.drain.grace }}
{{- end }}
{{ include "maieutic.environment.tls" . }}
{{- end -}}

{{- define "maieutic.environment.tls" -}}
{{- $tls := .root.Values.tls -}}
{{- $public := eq .component.service "gateway" -}}
{{- $server := ternary $tls.public $tls.internal $public -}}
{{- $folder := ternary "/run/secrets/maieutic-public-tls" "/run/secrets/maieutic-tls" $public -}}
{{- if $server.existingSecret }}
MAIEUTIC_SERVER_TLS_CERTIFICATE_FILE: {{ $folder }}/tls.crt
MAIEUTIC_SERVER_TLS_KEY_FILE: {{ $folder }}/tls.key
{{- if $server.mutual }}
MAIEUTIC_SERVER_TLS_CLIENT_CA_FILE: {{ $folder }}/ca.crt
{{- end }}
{{- else }}
MAIEUTIC_SERVER_ALLOW_PLAINTEXT: true
{{- end }}
{{- if $tls.internal.existingSecret }}
MAIEUTIC_CHANNEL_TLS_CA_FILE: /run/secrets/maieutic-tls/ca.crt
MAIEUTIC_CHANNEL_TLS_CERTIFICATE_FILE: /run/secrets/maieutic-tls/tls.crt
MAIEUTIC_CHANNEL_TLS_KEY_FILE: /run/secrets/maieutic-tls/tls.key
MAIEUTIC_CHANNEL_TLS_SERVER_NAME: {{ $tls.internal.serverName }}
{{- end }}
{{- end -}}

{{- define "maieutic.environment.gateway" -}}
MAIEUTIC_SESSION_ADDRESS: {{ include "maieutic.address" (dict "root" .root "service" "session") }}
MAIEUTIC_RETRIEVAL_ADDRESS: {{ include "maieutic.address" (dict "root" .root "service" "retrieval") }}
MAIEUTIC_API_KEYS_FILE: /run/secrets/maieutic/api-keys.jsonl
{{- end -}}

{{- define "maieutic.environment.session" -}}
MAIEUTIC_ID_KEY_FILE: /run/secrets/maieutic/id-key
MAIEUTIC_PUBLIC_KEYS_FILE: /run/secrets/maieutic/public-keys.json
MAIEUTIC_REDIS_URL_FILE: /run/secrets/maieutic/redis-url
MAIEUTIC_BUS_URL_FILE: /run/secrets/maieutic/rabbitmq-url
MAIEUTIC_ARCHIVE_ADDRESS: {{ include "maieutic.address" (dict "root" .root "service" "persistence") }}
{{- end -}}

{{- define "maieutic.environment.retrieval" -}}
MAIEUTIC_PUBLIC_KEYS_FILE: /run/secrets/maieutic/public-keys.json
MAIEUTIC_ARCHIVE_ADDRESS: {{ include "maieutic.address" (dict "root" .root "service" "persistence") }}
MAIEUTIC_BUS_URL_FILE: /run/secrets/maieutic/rabbitmq-url
MAIEUTIC_INDEX_URL: {{ .component.values.index.url | quote }}
{{- if include "maieutic.pinecone" .component }}
MAIEUTIC_PINECONE_API_KEY_FILE: /run/secrets/maieutic/pinecone-api-key
{{- end }}
{{- end -}}

{{- define "maieutic.environment.persistence" -}}
MAIEUTIC_PUBLIC_KEYS_FILE: /run/secrets/maieutic/public-keys.json
MAIEUTIC_ARCHIVE_URL_FILE: /run/secrets/maieutic/postgres-url
MAIEUTIC_BUS_URL_FILE: /run/secrets/maieutic/rabbitmq-url
MAIEUTIC_SESSION_ADDRESS: {{ include "maieutic.address" (dict "root" .root "service" "session") }}
MAIEUTIC_BATCH_DRAIN: {{ .component.values.batchSeconds }}
MAIEUTIC_MIGRATE_TIMEOUT: {{ .component.values.migrateSeconds }}
{{- end -}}

{{- define "maieutic.environment.agents" -}}
{{- $turns := .component.values.turns -}}
MAIEUTIC_SESSION_ADDRESS: {{ include "maieutic.address" (dict "root" .root "service" "session") }}
MAIEUTIC_RETRIEVAL_ADDRESS: {{ include "maieutic.address" (dict "root" .root "service" "retrieval") }}
MAIEUTIC_BUS_URL_FILE: /run/secrets/maieutic/rabbitmq-url
MAIEUTIC_MODEL_KIND: {{ .component.values.model }}
{{- if include "maieutic.claude" .component }}
MAIEUTIC_MODEL_CLAUDE_API_KEY_FILE: /run/secrets/maieutic/claude-api-key
{{- end }}
MAIEUTIC_INTERACTIVE_TURNS: {{ default 0 $turns.interactive }}
MAIEUTIC_ANALYSIS_TURNS: {{ default 0 $turns.analysis }}
MAIEUTIC_LONG_TURNS: {{ default 0 $turns.long }}
MAIEUTIC_GRACE: {{ .component.values.grace }}
{{- end -}}
