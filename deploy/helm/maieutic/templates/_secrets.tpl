{{/* The name of the Secret with the services' keys, of the one with the API keys, of a store's. */}}
{{- define "maieutic.identitySecret" -}}
{{- default (printf "%s-identity" (include "maieutic.fullname" .)) .Values.secrets.identity.existingSecret -}}
{{- end -}}

{{- define "maieutic.apiKeysSecret" -}}
{{- default (printf "%s-api-keys" (include "maieutic.fullname" .)) .Values.secrets.apiKeys.existingSecret -}}
{{- end -}}

{{- define "maieutic.storesSecret" -}}
{{- printf "%s-stores" (include "maieutic.fullname" .) -}}
{{- end -}}

{{/*
The data of fresh keys. Helm makes Ed25519 private keys, but tells their public halves only inside a
certificate: there they follow the fixed 12 bytes of an Ed25519 SubjectPublicKeyInfo, which are
$head in base64. 12 bytes are 16 digits without a remainder, so the two parts can be joined as text.
*/}}
{{- define "maieutic.freshIdentity" -}}
{{- $head := "MCowBQYDK2VwAyEA" -}}
{{- $public := dict -}}
{{- range $service := keys (include "maieutic.ports" . | fromYaml) | sortAlpha }}
{{- $private := genPrivateKey "ed25519" }}
{{- $certificate := (genSelfSignedCertWithKey $service nil nil 1 $private).Cert }}
{{- $der := regexReplaceAll "-----[A-Z ]+-----|\\s" $certificate "" | b64dec }}
{{- $key := index (splitList (b64dec $head) $der) 1 | substr 0 32 | b64enc }}
{{- $_ := set $public $service (printf "-----BEGIN PUBLIC KEY-----\n%s%s\n-----END PUBLIC KEY-----\n" $head $key) }}
{{ $service }}.pem: {{ $private | b64enc }}
{{- end }}
public-keys.json: {{ $public | toJson | b64enc }}
id-key: {{ randAlphaNum 48 | b64enc }}
{{- end -}}

{{/* Where a component finds its secrets: only its own are in its pod. */}}
{{- define "maieutic.secretSources" -}}
{{- $service := .component.service -}}
{{- $identity := list (dict "key" (printf "%s.pem" $service) "path" "signing-key.pem") -}}
{{- if has $service (list "session" "retrieval" "persistence") -}}
{{- $identity = append $identity (dict "key" "public-keys.json" "path" "public-keys.json") -}}
{{- end -}}
{{- if eq $service "session" -}}
{{- $identity = append $identity (dict "key" "id-key" "path" "id-key") -}}
{{- end -}}
{{- $sources := list (dict "secret" (dict "name" (include "maieutic.identitySecret" .root) "items" $identity)) -}}
{{- if eq $service "gateway" -}}
{{- $item := dict "key" "api-keys.jsonl" "path" "api-keys.jsonl" -}}
{{- $sources = append $sources (dict "secret" (dict "name" (include "maieutic.apiKeysSecret" .root) "items" (list $item))) -}}
{{- end -}}
{{- $stores := dict "session" (list "redis" "rabbitmq") "retrieval" (list "rabbitmq") "persistence" (list "postgres" "rabbitmq") "agents" (list "rabbitmq") -}}
{{- range $store := default list (get $stores $service) -}}
{{- $given := get $.root.Values.stores $store -}}
{{- $path := printf "%s-url" $store -}}
{{- $name := default (include "maieutic.storesSecret" $.root) $given.existingSecret -}}
{{- $key := ternary $given.key $path (ne $given.existingSecret "") -}}
{{- $items := list (dict "key" $key "path" $path) -}}
{{- if $given.caKey -}}
{{- $items = append $items (dict "key" $given.caKey "path" (printf "%s/ca.crt" $store)) -}}
{{- end -}}
{{- $sources = append $sources (dict "secret" (dict "name" $name "items" $items)) -}}
{{- end -}}
{{- if include "maieutic.pinecone" .component -}}
{{- $given := .component.values.index.pinecone -}}
{{- $name := required "retrieval.index.pinecone.existingSecret: name the Secret with Pinecone's API key" $given.existingSecret -}}
{{- $item := dict "key" $given.key "path" "pinecone-api-key" -}}
{{- $sources = append $sources (dict "secret" (dict "name" $name "items" (list $item))) -}}
{{- end -}}
{{- if include "maieutic.claude" .component -}}
{{- $given := .component.values.claude -}}
{{- $name := required "agents.claude.existingSecret: name the Secret with Anthropic's API key" $given.existingSecret -}}
{{- $item := dict "key" $given.key "path" "claude-api-key" -}}
{{- $sources = append $sources (dict "secret" (dict "name" $name "items" (list $item))) -}}
{{- end -}}
{{- toYaml $sources -}}
{{- end -}}
