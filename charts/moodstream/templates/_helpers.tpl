{{/*
Name of a resource that belongs to one component.
Usage: {{ include "moodstream.fullname" (list $ "producer") }}
*/}}
{{- define "moodstream.fullname" -}}
{{- printf "%s-%s" (index . 0).Release.Name (index . 1) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/*
Name of the pods' service account, which may do nothing.
Usage: {{ include "moodstream.serviceAccount" $ }}
*/}}
{{- define "moodstream.serviceAccount" -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/*
Labels by which a component's pods are found; they never change.
Usage: {{ include "moodstream.selectorLabels" (list $ "producer") | nindent 6 }}
*/}}
{{- define "moodstream.selectorLabels" -}}
app.kubernetes.io/name: moodstream
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/*
Labels of every resource.
Usage: {{ include "moodstream.labels" (list $ "producer") | nindent 4 }}
*/}}
{{- define "moodstream.labels" -}}
{{ include "moodstream.selectorLabels" . }}
app.kubernetes.io/part-of: moodstream
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
{{- end }}

{{/*
Labels of a pod: its own, and one for each destination whose NetworkPolicy must let it in.
Usage: {{ include "moodstream.podLabels" (list $ "consumer" "kafka" "postgres") | nindent 8 }}
*/}}
{{- define "moodstream.podLabels" -}}
{{ include "moodstream.labels" . }}
{{- range slice . 2 }}
moodstream.io/{{ . }}-client: "true"
{{- end }}
{{- end }}

{{/*
Image of a component.
Usage: {{ include "moodstream.image" (list $ "producer") }}
*/}}
{{- define "moodstream.image" -}}
{{- $root := index . 0 -}}
{{- printf "%s/%s:%s" $root.Values.image.registry (index . 1) ($root.Values.image.tag | default $root.Chart.AppVersion) }}
{{- end }}

{{/*
References to the registry's Secrets.
Usage: {{ include "moodstream.pullSecrets" $ | nindent 6 }}
*/}}
{{- define "moodstream.pullSecrets" -}}
{{- with .Values.image.pullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
Where pods may run. Pass the component to spread its pods as well.
Usage: {{ include "moodstream.scheduling" (list $ "consumer") | trim | nindent 6 }}
*/}}
{{- define "moodstream.scheduling" -}}
{{- $root := index . 0 -}}
{{- $arguments := . -}}
{{- with $root.Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with $root.Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if and $root.Values.topologySpread.enabled (gt (len .) 1) }}
topologySpreadConstraints:
  {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
  - topologyKey: {{ . }}
    maxSkew: 1
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "moodstream.selectorLabels" $arguments | nindent 8 }}
  {{- end }}
{{- end }}
{{- end }}

{{/*
Security context of a pod, as the restricted Pod Security standard wants it.
Usage: {{ include "moodstream.podSecurityContext" $ | nindent 8 }}
*/}}
{{- define "moodstream.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/*
Security context of a container, as the restricted Pod Security standard wants it.
Usage: {{ include "moodstream.securityContext" $ | nindent 12 }}
*/}}
{{- define "moodstream.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/*
What all pods but KServe's say about themselves.
Usage: {{ include "moodstream.podSpec" (list $ "producer") | nindent 6 }}
*/}}
{{- define "moodstream.podSpec" -}}
{{- $root := index . 0 -}}
{{- with include "moodstream.pullSecrets" $root }}
{{- . }}
{{ end -}}
# Services' addresses as variables would collide with settings of the same prefix.
enableServiceLinks: false
securityContext:
  {{- include "moodstream.podSecurityContext" $root | nindent 2 }}
{{- with include "moodstream.scheduling" . | trim }}
{{ . }}
{{- end }}
{{- end }}

{{/*
Image and security of a container of ours.
Usage: {{ include "moodstream.container" (list $ "producer") | nindent 10 }}
*/}}
{{- define "moodstream.container" -}}
image: {{ include "moodstream.image" . }}
imagePullPolicy: {{ (index . 0).Values.image.pullPolicy }}
securityContext:
  {{- include "moodstream.securityContext" (index . 0) | nindent 2 }}
{{- end }}

{{/*
Probes and port of a service. The startup probe gives a slow node 2 min before a restart.
Usage: {{ include "moodstream.health" (dict "port" "health") | nindent 10 }}
*/}}
{{- define "moodstream.health" -}}
startupProbe:
  httpGet: {path: /livez, port: {{ .port }}}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /livez, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: {{ .port }}}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}

{{/*
TCP port of /livez, /readyz and /metrics.
Usage: {{ include "moodstream.healthPort" $ }}
*/}}
{{- define "moodstream.healthPort" -}}
9000
{{- end }}

{{/*
TCP port of the model's REST address, its probes and metrics.
Usage: {{ include "moodstream.predictorPort" $ }}
*/}}
{{- define "moodstream.predictorPort" -}}
8080
{{- end }}

{{/*
TCP port of the examiner, inside the promoter's pod.
Usage: {{ include "moodstream.examinerPort" $ }}
*/}}
{{- define "moodstream.examinerPort" -}}
9100
{{- end }}

{{/*
Settings that every service has.
Usage: {{ include "moodstream.env.service" $ | nindent 12 }}
*/}}
{{- define "moodstream.env.service" -}}
- name: MOODSTREAM_SERVICE_PORT
  value: {{ include "moodstream.healthPort" . | quote }}
- name: MOODSTREAM_SERVICE_LOG_LEVEL
  value: {{ .Values.logLevel }}
- name: MOODSTREAM_SECRETS_DIR
  value: /run/moodstream/secrets
{{- end }}

{{/*
Settings of Kafka for one KafkaUser.
Usage: {{ include "moodstream.env.kafka" (list $ .Values.kafka.users.producer) | nindent 12 }}
*/}}
{{- define "moodstream.env.kafka" -}}
{{- $root := index . 0 -}}
- name: MOODSTREAM_KAFKA_BOOTSTRAP_SERVERS
  value: {{ include "moodstream.kafka.bootstrapServers" $root }}
- name: MOODSTREAM_KAFKA_POSTS_TOPIC
  value: {{ $root.Values.kafka.postsTopic }}
- name: MOODSTREAM_KAFKA_DEAD_LETTER_TOPIC
  value: {{ $root.Values.kafka.deadLetterTopic }}
- name: MOODSTREAM_KAFKA_USERNAME
  value: {{ index . 1 }}
- name: MOODSTREAM_KAFKA_CA_FILE
  value: /run/moodstream/ca/kafka.crt
{{- end }}

{{/*
Settings of PostgreSQL; user and password are files.
Usage: {{ include "moodstream.env.postgres" $ | nindent 12 }}
*/}}
{{- define "moodstream.env.postgres" -}}
- name: MOODSTREAM_POSTGRES_HOST
  value: {{ .Values.postgres.host | default (printf "%s-rw" .Values.postgres.cluster) }}
- name: MOODSTREAM_POSTGRES_PORT
  value: {{ .Values.postgres.port | quote }}
- name: MOODSTREAM_POSTGRES_DATABASE
  value: {{ .Values.postgres.database }}
- name: MOODSTREAM_POSTGRES_SSLMODE
  value: verify-full
- name: PGSSLROOTCERT
  value: /run/moodstream/ca/postgres.crt
{{- end }}

{{/*
Settings of whoever calls a model: the predictor or the challenger.
Usage: {{ include "moodstream.env.inference" (list $ "predictor") | nindent 12 }}
*/}}
{{- define "moodstream.env.inference" -}}
{{- $values := (index . 0).Values -}}
- name: MOODSTREAM_INFERENCE_URL
  value: http://{{ (index $values (index . 1)).service.name }}
- name: MOODSTREAM_INFERENCE_MODEL_NAME
  value: {{ $values.predictor.inferenceService }}
{{- end }}

{{/*
Where the challenger is.
Usage: {{ include "moodstream.env.challenger" $ | nindent 12 }}
*/}}
{{- define "moodstream.env.challenger" -}}
- name: MOODSTREAM_CHALLENGER_URL
  value: http://{{ .Values.challenger.service.name }}
{{- end }}

{{/*
Where the lake is; the keys are files.
Usage: {{ include "moodstream.env.lake" $ | nindent 12 }}
*/}}
{{- define "moodstream.env.lake" -}}
- name: MOODSTREAM_LAKE_URI
  valueFrom:
    configMapKeyRef: {name: {{ .Values.objectStore.configMap }}, key: lakeRoot}
- name: MOODSTREAM_LAKE_S3_ENDPOINT
  valueFrom:
    configMapKeyRef: {name: {{ .Values.objectStore.configMap }}, key: endpoint}
- name: AWS_DEFAULT_REGION
  valueFrom:
    configMapKeyRef: {name: {{ .Values.objectStore.configMap }}, key: region}
{{- end }}

{{/*
How good a version must be.
Usage: {{ include "moodstream.env.gate" $ | nindent 12 }}
*/}}
{{- define "moodstream.env.gate" -}}
- name: MOODSTREAM_GATE_FLOOR
  value: {{ .Values.gate.floor | quote }}
- name: MOODSTREAM_GATE_MAX_DROP
  value: {{ .Values.gate.maxDrop | quote }}
{{- end }}

{{/*
Brokers' addresses. With the namespace, because KEDA resolves them from its own.
Usage: {{ include "moodstream.kafka.bootstrapServers" $ }}
*/}}
{{- define "moodstream.kafka.bootstrapServers" -}}
{{- with .Values.kafka.bootstrapServers }}{{ . }}{{ else -}}
{{ .Values.kafka.cluster }}-kafka-bootstrap.{{ .Release.Namespace }}.svc:{{ .Values.kafka.port }}
{{- end }}
{{- end }}

{{/*
Secret with the brokers' authority.
Usage: {{ include "moodstream.kafka.caSecret" $ }}
*/}}
{{- define "moodstream.kafka.caSecret" -}}
{{- .Values.kafka.caSecret | default (printf "%s-cluster-ca-cert" .Values.kafka.cluster) }}
{{- end }}

{{/*
A KafkaUser's password as a file, a source of the volume of secrets.
Usage: {{ include "moodstream.secret.kafka" .Values.kafka.users.producer | nindent 16 }}
*/}}
{{- define "moodstream.secret.kafka" -}}
- secret:
    name: {{ . }}
    items:
      - {key: password, path: moodstream_kafka_password}
{{- end }}

{{/*
A database role's name and password as files, a source of the volume of secrets.
Usage: {{ include "moodstream.secret.postgres" "warehouse-app" | nindent 16 }}
*/}}
{{- define "moodstream.secret.postgres" -}}
- secret:
    name: {{ . }}
    items:
      - {key: username, path: moodstream_postgres_user}
      - {key: password, path: moodstream_postgres_password}
{{- end }}

{{/*
The object store's keys as files, a source of the volume of secrets.
Usage: {{ include "moodstream.secret.objectStore" $ | nindent 16 }}
*/}}
{{- define "moodstream.secret.objectStore" -}}
- secret:
    name: {{ .Values.objectStore.secret }}
    items:
      - {key: AWS_ACCESS_KEY_ID, path: aws_access_key_id}
      - {key: AWS_SECRET_ACCESS_KEY, path: aws_secret_access_key}
{{- end }}

{{/*
Secret of the database's owner.
Usage: {{ include "moodstream.postgres.ownerSecret" $ }}
*/}}
{{- define "moodstream.postgres.ownerSecret" -}}
{{- .Values.postgres.ownerSecret | default (printf "%s-app" .Values.postgres.cluster) }}
{{- end }}

{{/*
Volume of the authorities that sign the servers' certificates.
Usage: {{ include "moodstream.volume.ca" (list $ "kafka" "postgres") | nindent 8 }}
*/}}
{{- define "moodstream.volume.ca" -}}
{{- $root := index . 0 -}}
- name: ca
  projected:
    defaultMode: 0440
    sources:
      {{- if has "kafka" . }}
      - secret:
          name: {{ include "moodstream.kafka.caSecret" $root }}
          items:
            - {key: ca.crt, path: kafka.crt}
      {{- end }}
      {{- if has "postgres" . }}
      - secret:
          name: {{ $root.Values.postgres.caSecret | default (printf "%s-ca" $root.Values.postgres.cluster) }}
          items:
            - {key: ca.crt, path: postgres.crt}
      {{- end }}
{{- end }}

{{/*
Mounts that most containers have: secrets, authorities, room for temporary files.
Usage: {{ include "moodstream.mounts" $ | nindent 12 }}
*/}}
{{- define "moodstream.mounts" -}}
- {name: secrets, mountPath: /run/moodstream/secrets, readOnly: true}
- {name: ca, mountPath: /run/moodstream/ca, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end }}

{{/*
Room for temporary files, which are the only ones that a container may write.
Usage: {{ include "moodstream.volume.tmp" "64Mi" | nindent 8 }}
*/}}
{{- define "moodstream.volume.tmp" -}}
- name: tmp
  emptyDir:
    sizeLimit: {{ . }}
{{- end }}

{{/*
NetworkPolicy rule: to Kafka's brokers.
Usage: {{ include "moodstream.egress.kafka" $ | nindent 4 }}
*/}}
{{- define "moodstream.egress.kafka" -}}
- to:
    - podSelector:
        matchLabels:
          strimzi.io/cluster: {{ .Values.kafka.cluster }}
          strimzi.io/name: {{ .Values.kafka.cluster }}-kafka
  ports:
    - {protocol: TCP, port: {{ .Values.kafka.port }}}
{{- end }}

{{/*
NetworkPolicy rule: to PostgreSQL.
Usage: {{ include "moodstream.egress.postgres" $ | nindent 4 }}
*/}}
{{- define "moodstream.egress.postgres" -}}
- to:
    - podSelector:
        matchLabels:
          cnpg.io/cluster: {{ .Values.postgres.cluster }}
  ports:
    - {protocol: TCP, port: {{ .Values.postgres.port }}}
{{- end }}

{{/*
NetworkPolicy rule: to MLflow.
Usage: {{ include "moodstream.egress.mlflow" $ | nindent 4 }}
*/}}
{{- define "moodstream.egress.mlflow" -}}
- to:
    - podSelector:
        matchLabels:
          app.kubernetes.io/part-of: moodstream
          app.kubernetes.io/component: mlflow
  ports:
    - {protocol: TCP, port: {{ .Values.mlflow.port }}}
{{- end }}

{{/*
NetworkPolicy rule: to the served models.
Usage: {{ include "moodstream.egress.models" (list $ "predictor" "challenger") | nindent 4 }}
*/}}
{{- define "moodstream.egress.models" -}}
{{- $root := index . 0 -}}
- to:
    {{- range rest . }}
    - podSelector:
        matchLabels:
          {{- include "moodstream.selectorLabels" (list $root .) | nindent 10 }}
    {{- end }}
  ports:
    - {protocol: TCP, port: {{ include "moodstream.predictorPort" $root }}}
{{- end }}

{{/*
NetworkPolicy rule: to the object store.
Usage: {{ include "moodstream.egress.objectStore" $ | nindent 4 }}
*/}}
{{- define "moodstream.egress.objectStore" -}}
- ports:
    - {protocol: TCP, port: {{ .Values.objectStore.port }}}
  {{- if not .Values.objectStore.external }}
  to:
    - podSelector:
        matchLabels:
          app.kubernetes.io/part-of: moodstream
          app.kubernetes.io/component: object-store
  {{- end }}
{{- end }}

{{/*
NetworkPolicy rule: to some ports of addresses outside private networks.
Usage: {{ include "moodstream.egress.internet" (list 443) | nindent 4 }}
*/}}
{{- define "moodstream.egress.internet" -}}
- to:
    - ipBlock:
        cidr: 0.0.0.0/0
        except: [10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 169.254.0.0/16]
    - ipBlock:
        cidr: ::/0
        except: ["fc00::/7", "fe80::/10"]
  ports:
    {{- range . }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{/*
NetworkPolicy rule: from Prometheus to the port, while monitoring is enabled.
Usage: {{ include "moodstream.ingress.monitoring" (list $ 9000) | nindent 4 }}
*/}}
{{- define "moodstream.ingress.monitoring" -}}
{{- with (index . 0).Values }}
{{- if .monitoring.enabled -}}
- from:
    - namespaceSelector:
        matchLabels:
          kubernetes.io/metadata.name: {{ .networkPolicy.monitoringNamespace }}
  ports:
    - {protocol: TCP, port: {{ index $ 1 }}}
{{- end }}
{{- end }}
{{- end }}
