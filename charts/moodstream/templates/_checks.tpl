{{/*
Whether there is a cluster: `helm template` and `helm lint` have none, and know no CRDs.
Usage: {{ if include "moodstream.connected" $ }}
*/}}
{{- define "moodstream.connected" -}}
{{- with lookup "v1" "ServiceAccount" .Release.Namespace "default" }}yes{{ end }}
{{- end }}

{{/*
What is wrong with this configuration or this cluster, as a YAML list of sentences.
Usage: {{ range include "moodstream.problems" $ | fromYamlArray }}
*/}}
{{- define "moodstream.problems" -}}
{{- $apis := dict
  "serving.kserve.io/v1beta1" "KServe, which serves the model"
  "keda.sh/v1alpha1" "KEDA, which scales the consumers"
}}
{{- if .Values.monitoring.enabled }}
{{- $_ := set $apis "monitoring.coreos.com/v1" "the Prometheus operator; set monitoring.enabled=false to go without it" }}
{{- end }}
{{- range $api, $what := $apis }}
{{- if and (include "moodstream.connected" $) (not ($.Capabilities.APIVersions.Has $api)) }}
- {{ printf "The cluster does not know %s: install %s." $api $what | quote }}
{{- end }}
{{- end }}
{{- with .Values.producer }}
{{- if and .enabled (eq .source "x") }}
{{- if not .x.tokenSecret }}
- "producer.source is x, but producer.x.tokenSecret is empty: name a Secret with the key bearer_token."
{{- end }}
{{- if not .topics }}
- "producer.source is x, but producer.topics is empty: X sends only what it is asked for."
{{- end }}
{{- end }}
{{- if and .enabled (eq .source "replay") (hasPrefix "/data/" .replay.path) (not .replay.claim) }}
- "producer.replay.path is below /data, but producer.replay.claim is empty: name the PersistentVolumeClaim with the file."
{{- end }}
{{- end }}
{{- with .Values.consumer }}
{{- if gt (int .scaling.maxReplicas) (int $.Values.kafka.partitions) }}
- {{ printf "consumer.scaling.maxReplicas is %v, but there are %v partitions (kafka.partitions): more consumers would have nothing to read." .scaling.maxReplicas $.Values.kafka.partitions | quote }}
{{- end }}
{{- if gt (int .scaling.minReplicas) (int .scaling.maxReplicas) }}
- {{ printf "consumer.scaling.minReplicas (%v) is above consumer.scaling.maxReplicas (%v)." .scaling.minReplicas .scaling.maxReplicas | quote }}
{{- end }}
{{- if ge (int .drainSeconds) (int .terminationGracePeriodSeconds) }}
- "consumer.drainSeconds must be below consumer.terminationGracePeriodSeconds: else a stop is a kill."
{{- end }}
{{- end }}
{{- with .Values.dashboard }}
{{- if and .editorGroup (not .trustedProxies) }}
- "dashboard.editorGroup is set, but dashboard.trustedProxies is empty: nobody is believed about groups; name the proxy's networks."
{{- end }}
{{- end }}
{{- if and .Values.airtable.tokenSecret (not .Values.airtable.base) }}
- "airtable.tokenSecret is set, but airtable.base is empty: say which base, as app0123456789abcd."
{{- end }}
{{- range $name, $service := dict "dashboard" .Values.dashboard.service "predictor" .Values.predictor.service "challenger" .Values.challenger.service }}
{{- if and $service.nodePort (eq $service.type "ClusterIP") }}
- {{ printf "%s.service.nodePort is set, but %s.service.type is ClusterIP: make it NodePort." $name $name | quote }}
{{- end }}
{{- end }}
{{- end }}

{{/*
What a careful person would change about this configuration, as a YAML list of sentences.
Usage: {{ range include "moodstream.unsafe" $ | fromYamlArray }}
*/}}
{{- define "moodstream.unsafe" -}}
{{- if not .Values.networkPolicy.enabled }}
- "networkPolicy.enabled is false: every pod of the cluster can reach ours, and ours can reach everything."
{{- end }}
{{- if .Values.networkPolicy.ingressFrom.predictor }}
- "networkPolicy.ingressFrom.predictor lets others in: there is no sign-in and no TLS at that address."
{{- end }}
{{- if .Values.networkPolicy.ingressFrom.dashboard }}
- "networkPolicy.ingressFrom.dashboard lets others in: there is no TLS at that address; put a proxy with TLS before it."
{{- end }}
{{- if eq .Values.dashboard.reading "open" }}
- "dashboard.reading is open: whoever reaches the dashboard reads every post."
{{- end }}
{{- if hasPrefix "localhost/" .Values.image.registry }}
- {{ printf "image.registry is %s: only nodes that the images were loaded into can run them." .Values.image.registry | quote }}
{{- end }}
{{- if and .Values.producer.enabled (eq .Values.producer.source "replay") }}
{{- if .Values.producer.replay.loop }}
- "producer.replay.loop is true: the same posts come again and again, so the counts mean nothing."
{{- else }}
- "producer.replay.loop is false: the producer is started again after the end of the file; posts that are known are not counted twice."
{{- end }}
{{- end }}
{{- if and .Values.producer.enabled (ne .Values.producer.source "replay") }}
- {{ printf "helm uninstall deletes the volume %s, and with it how much was read from the source." (include "moodstream.fullname" (list . "producer")) | quote }}
{{- end }}
{{- if lt (int .Values.predictor.replicas) 2 }}
- "predictor.replicas is 1: while its pod moves, posts wait in Kafka."
{{- end }}
{{- if not .Values.podDisruptionBudget.enabled }}
- "podDisruptionBudget.enabled is false: a node's drain may stop all pods of a component at once."
{{- end }}
{{- if not .Values.monitoring.enabled }}
- "monitoring.enabled is false: nobody is told when something fails."
{{- else if not (regexMatch "^https?://" .Values.monitoring.runbookUrl) }}
- {{ printf "monitoring.runbookUrl is %s, which is no address: the alerts' links lead nowhere." .Values.monitoring.runbookUrl | quote }}
{{- end }}
{{- if not (and .Values.notifier.enabled .Values.notifier.channelsSecret) }}
- "notifier.channelsSecret is empty or notifier.enabled is false: alerts stay in the dashboard, nobody is told."
{{- end }}
{{- if or (not .Values.lake.enabled) .Values.lake.suspend }}
- "The lake is off: what retention deletes is gone."
{{- end }}
{{- if .Values.retention.suspend }}
- "retention.suspend is true: posts are kept for ever."
{{- end }}
{{- end }}
