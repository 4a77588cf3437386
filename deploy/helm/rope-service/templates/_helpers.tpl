{{/* Name of the chart, or nameOverride. */}}
{{- define "rope-service.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of the objects: RELEASE-rope-service, or RELEASE if that contains the name. */}}
{{- define "rope-service.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 63 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 63 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{/* Labels by which Services and workloads find the pods of the service. */}}
{{- define "rope-service.selectorLabels" -}}
app.kubernetes.io/name: {{ include "rope-service.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{/* Labels of every object. */}}
{{- define "rope-service.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "rope-service.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* "annotations:" of an object: common ones and `own`. Use: (dict "root" $ "own" .Values.x) */}}
{{- define "rope-service.annotations" -}}
{{- with mergeOverwrite (dict) (.root.Values.commonAnnotations | default dict) (.own | default dict) }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Deployment or StatefulSet. */}}
{{- define "rope-service.workloadKind" -}}
{{- if .Values.workload }}{{ .Values.workload }}
{{- else if .Values.sessions.enabled }}StatefulSet
{{- else }}Deployment
{{- end }}
{{- end }}

{{/* "true" if an autoscaler sets the number of pods. */}}
{{- define "rope-service.autoscaled" -}}
{{- if or .Values.autoscaling.hpa.enabled .Values.autoscaling.keda.enabled }}true{{ end }}
{{- end }}

{{/* Name of the port that has /metrics: a port of the Service and of the container. */}}
{{- define "rope-service.metricsPort" -}}
{{- if .Values.ports.status }}status{{ else }}http{{ end }}
{{- end }}

{{/* Scheme of that port: the status port never has TLS. */}}
{{- define "rope-service.metricsScheme" -}}
{{- if and .Values.tls.enabled (not .Values.ports.status) }}https{{ else }}http{{ end }}
{{- end }}

{{/* Name of the headless Service. */}}
{{- define "rope-service.headlessName" -}}
{{- printf "%s-headless" (include "rope-service.fullname" .) }}
{{- end }}
