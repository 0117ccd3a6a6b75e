{{/*
Name of the Deployment and what belongs to it.
Usage: {{ include "mlflow.fullname" $ }}
*/}}
{{- define "mlflow.fullname" -}}
{{- .Release.Name | trunc 58 | trimSuffix "-" }}
{{- end }}

{{/*
Labels by which a component's pods are found; they never change.
Usage: {{ include "mlflow.selectorLabels" (list $ "mlflow") | nindent 6 }}
*/}}
{{- define "mlflow.selectorLabels" -}}
app.kubernetes.io/name: mlflow
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{/*
Labels of every resource.
Usage: {{ include "mlflow.labels" (list $ "mlflow") | nindent 4 }}
*/}}
{{- define "mlflow.labels" -}}
{{ include "mlflow.selectorLabels" . }}
app.kubernetes.io/part-of: moodstream
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
{{- end }}

{{/*
One of our images.
Usage: {{ include "mlflow.image" (list $ "mlflow") }}
*/}}
{{- define "mlflow.image" -}}
{{- with (index . 0) -}}
{{- printf "%s/%s:%s" .Values.image.registry (index $ 1) (.Values.image.tag | default .Chart.AppVersion) }}
{{- end }}
{{- end }}

{{/*
What all pods say about themselves.
Usage: {{ include "mlflow.podSpec" $ | nindent 6 }}
*/}}
{{- define "mlflow.podSpec" -}}
serviceAccountName: {{ include "mlflow.fullname" . }}
automountServiceAccountToken: false
# The variable MLFLOW_PORT would be read as an option of the server.
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/*
Image and security of a container of ours.
Usage: {{ include "mlflow.container" (list $ "mlflow") | nindent 10 }}
*/}}
{{- define "mlflow.container" -}}
image: {{ include "mlflow.image" . }}
imagePullPolicy: {{ (index . 0).Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
{{- end }}

{{/*
TCP port of the server.
Usage: {{ include "mlflow.port" $ }}
*/}}
{{- define "mlflow.port" -}}
5000
{{- end }}

{{/*
Names by which the server may be called, each with any port: a comma between them.
Usage: {{ include "mlflow.allowedHosts" $ }}
*/}}
{{- define "mlflow.allowedHosts" -}}
{{- $service := .Values.service.name -}}
{{- $inside := list $service (printf "%s.%s" $service .Release.Namespace) (printf "%s.%s.svc" $service .Release.Namespace) (printf "%s.%s.svc.cluster.local" $service .Release.Namespace) -}}
{{- $names := list -}}
{{- range concat $inside (list "localhost" "127.0.0.1") .Values.hosts -}}
{{- $names = concat $names (list . (printf "%s:*" .)) -}}
{{- end -}}
{{- join "," $names }}
{{- end }}

{{/*
Pages that may send changes: the server's own, under its further names. A comma between them.
Usage: {{ include "mlflow.allowedOrigins" $ }}
*/}}
{{- define "mlflow.allowedOrigins" -}}
{{- $origins := list -}}
{{- range .Values.hosts -}}
{{- $origins = concat $origins (list (printf "http://%s" .) (printf "http://%s:*" .) (printf "https://%s" .) (printf "https://%s:*" .)) -}}
{{- end -}}
{{- join "," $origins }}
{{- end }}

{{/*
What server and migration are told; user, passwords and keys are files.
Usage: {{ include "mlflow.env" $ | nindent 12 }}
*/}}
{{- define "mlflow.env" -}}
- name: PGHOST
  value: {{ .Values.postgres.host | default (printf "%s-rw" .Values.postgres.cluster) }}
- name: PGPORT
  value: {{ .Values.postgres.port | quote }}
- name: PGDATABASE
  value: {{ .Values.postgres.database }}
- name: PGSSLMODE
  value: verify-full
- name: PGSSLROOTCERT
  value: /run/mlflow/ca/ca.crt
- name: MLFLOW_ARTIFACTS_DESTINATION
  valueFrom:
    configMapKeyRef:
      name: {{ .Values.objectStore.configMap }}
      key: artifactRoot
- name: MLFLOW_S3_ENDPOINT_URL
  valueFrom:
    configMapKeyRef:
      name: {{ .Values.objectStore.configMap }}
      key: endpoint
- name: AWS_DEFAULT_REGION
  valueFrom:
    configMapKeyRef:
      name: {{ .Values.objectStore.configMap }}
      key: region
# Other stores than Amazon's may not know the newer checksums.
- name: AWS_REQUEST_CHECKSUM_CALCULATION
  value: when_required
- name: AWS_RESPONSE_CHECKSUM_VALIDATION
  value: when_required
- name: MLFLOW_DISABLE_TELEMETRY
  value: "true"
{{- end }}

{{/*
Mounts of server and migration.
Usage: {{ include "mlflow.mounts" $ | nindent 12 }}
*/}}
{{- define "mlflow.mounts" -}}
- {name: secrets, mountPath: /run/mlflow/secrets, readOnly: true}
- {name: ca, mountPath: /run/mlflow/ca, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end }}

{{/*
What is wrong with this configuration or this cluster, as a YAML list of sentences.
Usage: {{ range include "mlflow.problems" $ | fromYamlArray }}
*/}}
{{- define "mlflow.problems" -}}
{{- $cluster := lookup "v1" "ServiceAccount" .Release.Namespace "default" }}
{{- if and .Values.monitoring.enabled $cluster (not (.Capabilities.APIVersions.Has "monitoring.coreos.com/v1")) }}
- "The cluster does not know monitoring.coreos.com/v1: install the Prometheus operator, or set monitoring.enabled=false to go without it."
{{- end }}
{{- if and .Values.service.nodePort (eq .Values.service.type "ClusterIP") }}
- "service.nodePort is set, but service.type is ClusterIP: make it NodePort."
{{- end }}
{{- end }}

{{/*
What a careful person would change about this configuration, as a YAML list of sentences.
Usage: {{ range include "mlflow.unsafe" $ | fromYamlArray }}
*/}}
{{- define "mlflow.unsafe" -}}
- "MLflow has no sign-in and no TLS: whoever reaches it can read, change and delete every model, and decide which one is served. Let people in through a proxy that asks who they are."
{{- if not .Values.networkPolicy.enabled }}
- "networkPolicy.enabled is false: every pod of the cluster can reach MLflow."
{{- if .Values.webhooks.secret }}
- "webhooks.secret is set and networkPolicy.enabled is false: whoever reaches MLflow can have it call any address inside the cluster."
{{- end }}
{{- else if .Values.networkPolicy.ingressFrom }}
- "networkPolicy.ingressFrom lets others in than our own services."
{{- end }}
{{- if ne .Values.service.type "ClusterIP" }}
- {{ printf "service.type is %s: MLflow can be reached from outside of the cluster." .Values.service.type | quote }}
{{- end }}
{{- if hasPrefix "localhost/" .Values.image.registry }}
- {{ printf "image.registry is %s: only nodes that the images were loaded into can run them." .Values.image.registry | quote }}
{{- end }}
{{- if lt (int .Values.replicas) 2 }}
- "replicas is 1: while its pod moves, nobody can train or promote; what is served goes on."
{{- end }}
{{- end }}
