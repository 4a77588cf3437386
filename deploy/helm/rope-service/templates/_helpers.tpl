{{/* Name of the chart, or nameOverride. */}}
{{- define "rope-service.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Name of the objects: RELEASE-rope-service, or RELEASE if that contains the name. */}}
{{- define "rope-service.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- $name := default .Chart.Name .Values.nameOverride }}
{{- if contains $name .Release.Name }}
{{- .Release.Name | trunc 52 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name $name | trunc 52 | trimSuffix "-" }}
{{- end }}
{{- end }}
{{- end }}

{{- define "rope-service.headlessName" -}}
{{- printf "%s-headless" (include "rope-service.fullname" .) }}
{{- end }}

{{- define "rope-service.routerName" -}}
{{- printf "%s-router" (include "rope-service.fullname" .) }}
{{- end }}

{{- define "rope-service.serviceAccountName" -}}
{{- if .Values.serviceAccount.create }}
{{- .Values.serviceAccount.name | default (include "rope-service.fullname" .) }}
{{- else }}
{{- .Values.serviceAccount.name | default "default" }}
{{- end }}
{{- end }}

{{/* Labels by which Services and workloads find the pods of the service. */}}
{{- define "rope-service.selectorLabels" -}}
app.kubernetes.io/name: {{ include "rope-service.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: server
{{- end }}

{{/* The same for the pods of the router. */}}
{{- define "rope-service.routerSelectorLabels" -}}
app.kubernetes.io/name: {{ include "rope-service.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: router
{{- end }}

{{/* The same for the pod of `helm test`. */}}
{{- define "rope-service.testLabels" -}}
app.kubernetes.io/name: {{ include "rope-service.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/component: test
{{- end }}

{{- define "rope-service.releaseLabels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of every object, except those of the router. */}}
{{- define "rope-service.labels" -}}
{{ include "rope-service.selectorLabels" . }}
{{ include "rope-service.releaseLabels" . }}
{{- end }}

{{- define "rope-service.routerLabels" -}}
{{ include "rope-service.routerSelectorLabels" . }}
{{ include "rope-service.releaseLabels" . }}
{{- end }}

{{/* "annotations:" with the common ones and `own`, or nothing. Use: (dict "root" $ "own" .Values.x) */}}
{{- define "rope-service.annotations" -}}
{{- with mergeOverwrite (dict) (.root.Values.commonAnnotations | default dict) (.own | default dict) -}}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Reference of an image. Use: (dict "image" .Values.image "tag" .Chart.AppVersion) */}}
{{- define "rope-service.image" -}}
{{- if .image.digest -}}
{{ .image.repository }}@{{ .image.digest }}
{{- else -}}
{{ .image.repository }}:{{ .image.tag | default .tag }}
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

{{/* Largest number of pods. */}}
{{- define "rope-service.maxReplicas" -}}
{{- if include "rope-service.autoscaled" . }}{{ int .Values.autoscaling.maxReplicas }}{{ else }}{{ int .Values.replicaCount }}{{ end }}
{{- end }}

{{/* "true" if clients outside of the cluster reach the Service, which then has no status port. */}}
{{- define "rope-service.external" -}}
{{- if has .Values.service.type (list "NodePort" "LoadBalancer") }}true{{ end }}
{{- end }}

{{/* "true" if pods have the headless Service: by choice, for the names of a StatefulSet, or for its status port. */}}
{{- define "rope-service.headless" -}}
{{- if or .Values.headlessService.enabled (eq (include "rope-service.workloadKind" .) "StatefulSet") (include "rope-service.external" .) }}true{{ end }}
{{- end }}

{{/* Label of the one Service that Prometheus reads, so that no pod is read twice. */}}
{{- define "rope-service.metricsLabel" -}}
rope-service/metrics: "true"
{{- end }}

{{/* Labels by which a ServiceMonitor finds that Service. */}}
{{- define "rope-service.metricsSelector" -}}
app.kubernetes.io/name: {{ include "rope-service.name" . | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{ include "rope-service.metricsLabel" . }}
{{- end }}

{{/* "true" if the router runs. */}}
{{- define "rope-service.routed" -}}
{{- if and .Values.sessions.enabled .Values.sessions.router.enabled }}true{{ end }}
{{- end }}

{{/* Name of the Service that clients of HTTP call. */}}
{{- define "rope-service.entryName" -}}
{{- if include "rope-service.routed" . }}{{ include "rope-service.routerName" . }}{{ else }}{{ include "rope-service.fullname" . }}{{ end }}
{{- end }}

{{/* Name of the port that has /metrics: a port of the Service and of the container. */}}
{{- define "rope-service.metricsPort" -}}
{{- if .Values.ports.status }}status{{ else }}http{{ end }}
{{- end }}

{{/* Scheme of that port: the status port never has TLS. */}}
{{- define "rope-service.metricsScheme" -}}
{{- if and .Values.tls.enabled (not .Values.ports.status) }}https{{ else }}http{{ end }}
{{- end }}

{{/* terminationGracePeriodSeconds: the drain and a margin. */}}
{{- define "rope-service.gracePeriod" -}}
{{- $drain := .Values.drain }}
{{- if kindIs "invalid" $drain.gracePeriodSeconds -}}
{{ addf $drain.delaySeconds $drain.seconds $drain.marginSeconds | ceil | int64 }}
{{- else -}}
{{ int64 $drain.gracePeriodSeconds }}
{{- end }}
{{- end }}

{{/* The text of a scalar. Helm reads numbers as floats, and would write 60000000000 as 6e+10. */}}
{{- define "rope-service.text" -}}
{{- if kindIs "float64" . }}
{{- if eq . (floor .) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- else }}{{ . }}
{{- end }}
{{- end }}

{{/* Bytes of a number or of a quantity such as 1.5Gi. */}}
{{- define "rope-service.bytes" -}}
{{- $text := include "rope-service.text" . }}
{{- $units := dict "" 1 "k" 1e3 "M" 1e6 "G" 1e9 "T" 1e12 "Ki" 1024 "Mi" 1048576 "Gi" 1073741824 "Ti" 1099511627776 }}
{{- $unit := regexFind "[A-Za-z]*$" $text }}
{{- mulf (trimSuffix $unit $text | float64) (get $units $unit) | int64 }}
{{- end }}

{{/* Whole CPUs of a quantity such as 1500m: at least 1. */}}
{{- define "rope-service.cpus" -}}
{{- $text := include "rope-service.text" . }}
{{- $cpus := float64 (trimSuffix "m" $text) }}
{{- if hasSuffix "m" $text }}{{ $cpus = divf $cpus 1000 }}{{ end }}
{{- max 1 (floor $cpus | int64) }}
{{- end }}

{{/* Names of Secrets: those that exist, or those that the chart makes. */}}
{{- define "rope-service.keysSecret" -}}
{{- .Values.keys.existingSecret | default (printf "%s-keys" (include "rope-service.fullname" .)) }}
{{- end }}
{{- define "rope-service.tlsSecret" -}}
{{- .Values.tls.existingSecret | default (printf "%s-tls" (include "rope-service.fullname" .)) }}
{{- end }}
{{- define "rope-service.clientCaSecret" -}}
{{- .Values.tls.clientCa.existingSecret | default (include "rope-service.tlsSecret" .) }}
{{- end }}
{{- define "rope-service.signingKeySecret" -}}
{{- .Values.sessions.signingKey.existingSecret | default (printf "%s-session-key" (include "rope-service.fullname" .)) }}
{{- end }}
