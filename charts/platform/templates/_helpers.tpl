{{/*
Labels by which our own pods are found; they never change.
Usage: {{ include "platform.selectorLabels" (list $ "object-store") | nindent 6 }}
*/}}
{{- define "platform.selectorLabels" -}}
app.kubernetes.io/name: platform
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/*
Labels of every resource.
Usage: {{ include "platform.labels" (list $ "kafka") | nindent 4 }}
*/}}
{{- define "platform.labels" -}}
{{ include "platform.selectorLabels" . }}
app.kubernetes.io/part-of: moodstream
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
{{- end }}

{{/*
Name of a resource that is neither Kafka's nor PostgreSQL's.
Usage: {{ include "platform.fullname" (list $ "test") }}
*/}}
{{- define "platform.fullname" -}}
{{- printf "%s-%s" (index . 0).Release.Name (index . 1) | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/*
Name of the object store's Service, StatefulSet and ConfigMap.
Usage: {{ include "platform.objectStore.name" $ }}
*/}}
{{- define "platform.objectStore.name" -}}
object-store
{{- end }}

{{/*
TCP port of the object store's Service.
Usage: {{ include "platform.objectStore.port" $ }}
*/}}
{{- define "platform.objectStore.port" -}}
9000
{{- end }}

{{/*
Whether the object store runs here.
Usage: {{ if include "platform.objectStore.here" $ }}
*/}}
{{- define "platform.objectStore.here" -}}
{{- if ne .Values.objectStore.kind "external" }}yes{{ end }}
{{- end }}

{{/*
Address of the object store for every S3 client.
Usage: {{ include "platform.objectStore.endpoint" $ }}
*/}}
{{- define "platform.objectStore.endpoint" -}}
{{- if include "platform.objectStore.here" . -}}
http://{{ include "platform.objectStore.name" . }}.{{ .Release.Namespace }}.svc:{{ include "platform.objectStore.port" . }}
{{- else -}}
{{- .Values.objectStore.external.endpoint }}
{{- end }}
{{- end }}

{{/*
TCP port of the external object store.
Usage: {{ include "platform.objectStore.externalPort" $ }}
*/}}
{{- define "platform.objectStore.externalPort" -}}
{{- $url := urlParse .Values.objectStore.external.endpoint -}}
{{- $port := regexFind ":[0-9]+$" $url.host -}}
{{- if $port }}{{ trimPrefix ":" $port }}{{ else if eq $url.scheme "https" }}443{{ else }}80{{ end }}
{{- end }}

{{/*
Copies of each partition.
Usage: {{ include "platform.kafka.copies" $ }}
*/}}
{{- define "platform.kafka.copies" -}}
{{- min 3 (int .Values.kafka.brokers.replicas) }}
{{- end }}

{{/*
Copies that must have a record before it is acknowledged: one may be away.
Usage: {{ include "platform.kafka.inSync" $ }}
*/}}
{{- define "platform.kafka.inSync" -}}
{{- max 1 (sub (include "platform.kafka.copies" . | int) 1) }}
{{- end }}

{{/*
Labels of everything that Strimzi makes for our Kafka.
Usage: {{ include "platform.kafka.pods" $ | nindent 6 }}
*/}}
{{- define "platform.kafka.pods" -}}
strimzi.io/cluster: {{ .Values.kafka.cluster }}
{{- end }}

{{/*
Labels of everything that CloudNativePG makes for our PostgreSQL.
Usage: {{ include "platform.postgres.pods" $ | nindent 6 }}
*/}}
{{- define "platform.postgres.pods" -}}
cnpg.io/cluster: {{ .Values.postgres.cluster }}
{{- end }}

{{/*
Name of the pool of brokers: they are also controllers where there are no others.
Usage: {{ include "platform.kafka.brokerPool" $ }}
*/}}
{{- define "platform.kafka.brokerPool" -}}
{{- ternary "broker" "dual" (gt (int .Values.kafka.controllers.replicas) 0) }}
{{- end }}

{{/*
Name of the pool of controllers.
Usage: {{ include "platform.kafka.controllerPool" $ }}
*/}}
{{- define "platform.kafka.controllerPool" -}}
controller
{{- end }}

{{/*
A pool of Kafka nodes.
Usage: {{ include "platform.kafka.pool" (list $ .Values.kafka.brokers "broker") | nindent 2 }}
*/}}
{{- define "platform.kafka.pool" -}}
{{- $root := index . 0 -}}
{{- $pool := index . 1 -}}
replicas: {{ $pool.replicas }}
resources:
  {{- toYaml $pool.resources | nindent 2 }}
jvmOptions:
  -Xms: {{ $pool.heap }}
  -Xmx: {{ $pool.heap }}
storage:
  type: jbod
  volumes:
    - id: 0
      type: persistent-claim
      size: {{ $pool.storage }}
      {{- with $root.Values.kafka.storageClass }}
      class: {{ . }}
      {{- end }}
      kraftMetadata: shared
      deleteClaim: {{ $root.Values.kafka.deleteClaim }}
template:
  kafkaContainer:
    {{- include "platform.kafka.container" $root | nindent 4 }}
  {{- if $root.Values.topologySpread.enabled }}
  pod:
    topologySpreadConstraints:
      {{- range list "kubernetes.io/hostname" "topology.kubernetes.io/zone" }}
      - topologyKey: {{ . }}
        maxSkew: 1
        whenUnsatisfiable: ScheduleAnyway
        labelSelector:
          matchLabels:
            {{- include "platform.kafka.pods" $root | nindent 12 }}
            strimzi.io/pool-name: {{ index $ 2 }}
      {{- end }}
  {{- end }}
{{- end }}

{{/*
Template of a container that Strimzi makes. By itself the operator sets no security context, unless its own
configuration asks for it, and a namespace for restricted pods would refuse the pod.
Usage: {{ include "platform.kafka.container" $ | nindent 6 }}
*/}}
{{- define "platform.kafka.container" -}}
securityContext:
  allowPrivilegeEscalation: false
  runAsNonRoot: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/*
Security context of a pod of ours, as the restricted Pod Security standard wants it.
Usage: {{ include "platform.podSecurityContext" $ | nindent 8 }}
*/}}
{{- define "platform.podSecurityContext" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{/*
Security context of a container of ours.
Usage: {{ include "platform.securityContext" $ | nindent 12 }}
*/}}
{{- define "platform.securityContext" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/*
Peers of one namespace.
Usage: {{ include "platform.namespace" .Values.networkPolicy.namespaces.keda | nindent 8 }}
*/}}
{{- define "platform.namespace" -}}
- namespaceSelector:
    matchLabels:
      kubernetes.io/metadata.name: {{ . }}
{{- end }}

{{/*
Egress to the API server, which no selector can name.
Usage: {{ include "platform.egress.apiServer" $ | nindent 4 }}
*/}}
{{- define "platform.egress.apiServer" -}}
- ports:
    {{- range .Values.networkPolicy.apiServer.ports }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{/*
Name of our pods' service account, which may do nothing.
Usage: {{ include "platform.serviceAccount" $ }}
*/}}
{{- define "platform.serviceAccount" -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- end }}
