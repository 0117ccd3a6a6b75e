{{/*
Whether there is a cluster: `helm template` and `helm lint` have none, and know no CRDs.
Usage: {{ if include "platform.connected" $ }}
*/}}
{{- define "platform.connected" -}}
{{- with lookup "v1" "ServiceAccount" .Release.Namespace "default" }}yes{{ end }}
{{- end }}

{{/*
What is wrong with this configuration or this cluster, as a YAML list of sentences.
Usage: {{ range include "platform.problems" $ | fromYamlArray }}
*/}}
{{- define "platform.problems" -}}
{{- $apis := dict
  "kafka.strimzi.io/v1" "Strimzi 1.0 or later, which runs Kafka"
  "postgresql.cnpg.io/v1/DatabaseRole" "CloudNativePG 1.30 or later, which runs PostgreSQL"
}}
{{- if .Values.postgres.backup.enabled }}
{{- $_ := set $apis "barmancloud.cnpg.io/v1" "the Barman Cloud plugin of CloudNativePG, or set postgres.backup.enabled=false" }}
{{- end }}
{{- if .Values.monitoring.enabled }}
{{- $_ := set $apis "monitoring.coreos.com/v1" "the Prometheus operator, or set monitoring.enabled=false" }}
{{- end }}
{{- range $api, $what := $apis }}
{{- if and (include "platform.connected" $) (not ($.Capabilities.APIVersions.Has $api)) }}
- {{ printf "The cluster does not know %s: install %s." $api $what | quote }}
{{- end }}
{{- end }}
{{- if and (eq .Values.objectStore.kind "external") (not .Values.objectStore.external.endpoint) }}
- "objectStore.kind is external, but objectStore.external.endpoint is empty: give its address with http:// or https://."
{{- end }}
{{- if and (ne .Values.objectStore.kind "external") .Values.objectStore.external.endpoint }}
- {{ printf "objectStore.external.endpoint is set, but objectStore.kind is %s: set it to external, or leave the endpoint empty." .Values.objectStore.kind | quote }}
{{- end }}
{{- if and .Values.postgres.synchronous (lt (int .Values.postgres.instances) 2) }}
- "postgres.synchronous is true, but there is one instance (postgres.instances): a commit would wait for ever."
{{- end }}
{{- if has (int .Values.kafka.controllers.replicas) (list 2 4) }}
- {{ printf "kafka.controllers.replicas is %v: an even number tolerates no more failures than one fewer; use 0, 1, 3 or 5." .Values.kafka.controllers.replicas | quote }}
{{- end }}
{{- if gt (int .Values.kafka.postsTopic.maxMessageBytes) (int .Values.kafka.deadLetterTopic.maxMessageBytes) }}
- "kafka.deadLetterTopic.maxMessageBytes is below kafka.postsTopic.maxMessageBytes: a post that is set aside would not fit."
{{- end }}
{{- end }}

{{/*
What a careful person would change about this configuration, as a YAML list of sentences.
Usage: {{ range include "platform.unsafe" $ | fromYamlArray }}
*/}}
{{- define "platform.unsafe" -}}
{{- if not .Values.networkPolicy.enabled }}
- "networkPolicy.enabled is false: every pod of the cluster can reach Kafka, PostgreSQL and the object store."
{{- end }}
{{- if lt (int .Values.kafka.brokers.replicas) 3 }}
- {{ printf "kafka.brokers.replicas is %v: the loss of a broker's volume loses posts." .Values.kafka.brokers.replicas | quote }}
{{- end }}
{{- if lt (int .Values.postgres.instances) 2 }}
- "postgres.instances is 1: nothing takes over, and the loss of its volume loses the warehouse."
{{- else if not .Values.postgres.synchronous }}
- "postgres.synchronous is false: a takeover may lose the last commits."
{{- end }}
{{- if not .Values.postgres.backup.enabled }}
- "postgres.backup.enabled is false: there is no backup."
{{- end }}
{{- if .Values.kafka.deleteClaim }}
- "kafka.deleteClaim is true: helm uninstall deletes all posts."
{{- end }}
{{- if eq .Values.objectStore.kind "minio" }}
- "objectStore.kind is minio: its community edition is archived and gets no security fixes; use seaweedfs or external."
{{- end }}
{{- if include "platform.objectStore.here" . }}
- "The object store has one pod, one volume and no TLS."
{{- end }}
{{- if not .Values.monitoring.enabled }}
- "monitoring.enabled is false: nobody is told when something fails."
{{- else if not (regexMatch "^https?://" .Values.monitoring.runbookUrl) }}
- {{ printf "monitoring.runbookUrl is %s, which is no address: the alerts' links lead nowhere." .Values.monitoring.runbookUrl | quote }}
{{- end }}
{{- end }}
