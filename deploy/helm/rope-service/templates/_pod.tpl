{{/* Resources of the container: those of the values, and one GPU in requests and limits. */}}
{{- define "rope-service.resources" -}}
{{- $resources := deepCopy .Values.resources }}
{{- if eq .Values.device "gpu" }}
{{- if .Values.gpu.resourceClaimTemplate }}
{{- $_ := set $resources "claims" (concat ($resources.claims | default list) (list (dict "name" "gpu"))) }}
{{- else if .Values.gpu.resource }}
{{- $gpu := dict .Values.gpu.resource 1 }}
{{- $_ := set $resources "requests" (merge (dict) $gpu ($resources.requests | default dict)) }}
{{- $_ := set $resources "limits" (merge (dict) $gpu ($resources.limits | default dict)) }}
{{- end }}
{{- end }}
{{- toYaml $resources }}
{{- end }}

{{- define "rope-service.tolerations" -}}
{{- $tolerations := .Values.tolerations | default list }}
{{- if and (eq .Values.device "gpu") .Values.gpu.toleration }}
{{- $tolerations = prepend $tolerations (dict "key" "nvidia.com/gpu" "operator" "Exists" "effect" "NoSchedule") }}
{{- end }}
{{- if $tolerations }}
{{- toYaml $tolerations }}
{{- end }}
{{- end }}

{{/* Constraints of the values, with the labels of the pods. During an update only new pods count. */}}
{{- define "rope-service.topologySpread" -}}
{{- $root := . }}
{{- range .Values.topologySpreadConstraints }}
{{- $constraint := deepCopy . }}
{{- if not (hasKey $constraint "labelSelector") }}
{{- $_ := set $constraint "labelSelector" (dict "matchLabels" (include "rope-service.selectorLabels" $root | fromYaml)) }}
{{- if and (not (hasKey $constraint "matchLabelKeys")) (eq (include "rope-service.workloadKind" $root) "Deployment") }}
{{- $_ := set $constraint "matchLabelKeys" (list "pod-template-hash") }}
{{- end }}
{{- end }}
- {{ toYaml $constraint | nindent 2 | trim }}
{{- end }}
{{- end }}

{{- define "rope-service.podAnnotations" -}}
{{- with .Values.sessions }}
{{- if and .enabled .signingKey.value }}
{{- /* only 8 characters, so that the key cannot be guessed from the checksum */}}
checksum/session-key: {{ sha256sum .signingKey.value | trunc 8 | quote }}
{{- end }}
{{- end }}
{{- with .Values.podAnnotations }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* The template of the pod, of a Deployment or a StatefulSet. */}}
{{- define "rope-service.podTemplate" -}}
metadata:
  {{- include "rope-service.annotations" (dict "root" . "own" (include "rope-service.podAnnotations" . | fromYaml)) | nindent 2 }}
  labels:
    {{- include "rope-service.selectorLabels" . | nindent 4 }}
    {{- with .Values.commonLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
    {{- with .Values.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  {{- /* the variables of a Service named rope look like settings, and stop the start */}}
  enableServiceLinks: false
  automountServiceAccountToken: {{ .Values.serviceAccount.automount }}
  serviceAccountName: {{ include "rope-service.serviceAccountName" . | quote }}
  terminationGracePeriodSeconds: {{ include "rope-service.gracePeriod" . }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.runtimeClassName }}
  runtimeClassName: {{ . | quote }}
  {{- end }}
  {{- with .Values.priorityClassName }}
  priorityClassName: {{ . | quote }}
  {{- end }}
  {{- with .Values.schedulerName }}
  schedulerName: {{ . | quote }}
  {{- end }}
  {{- with .Values.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with include "rope-service.tolerations" . }}
  tolerations:
    {{- . | nindent 4 }}
  {{- end }}
  {{- with include "rope-service.topologySpread" . }}
  topologySpreadConstraints:
    {{- . | trim | nindent 4 }}
  {{- end }}
  {{- with .Values.podSecurityContext }}
  securityContext:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- if and (eq .Values.device "gpu") .Values.gpu.resourceClaimTemplate }}
  resourceClaims:
    - name: gpu
      resourceClaimTemplateName: {{ .Values.gpu.resourceClaimTemplate | quote }}
  {{- end }}
  {{- with .Values.extraPodSpec }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .Values.initContainers }}
  initContainers:
    {{- tpl (toYaml .) $ | nindent 4 }}
  {{- end }}
  containers:
    - name: rope-service
      image: {{ include "rope-service.image" (dict "image" .Values.image "tag" .Chart.AppVersion) | quote }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      ports:
        - name: http
          containerPort: {{ .Values.ports.http }}
          protocol: TCP
        - name: grpc
          containerPort: {{ .Values.ports.grpc }}
          protocol: TCP
        {{- if .Values.ports.status }}
        - name: status
          containerPort: {{ .Values.ports.status }}
          protocol: TCP
        {{- end }}
      env:
        {{- include "rope-service.env" . | trim | nindent 8 }}
      {{- with .Values.envFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      resources:
        {{- include "rope-service.resources" . | nindent 8 }}
      {{- with .Values.securityContext }}
      securityContext:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- include "rope-service.probes" . | trim | nindent 6 }}
      volumeMounts:
        {{- include "rope-service.volumeMounts" . | nindent 8 }}
    {{- with .Values.sidecars }}
    {{- tpl (toYaml .) $ | nindent 4 }}
    {{- end }}
  volumes:
    {{- include "rope-service.volumes" . | nindent 4 }}
{{- end }}
