{{/* The request of a probe. Use: (dict "root" $ "handler" "status" "path" "/readyz") */}}
{{- define "rope-service.probeHandler" -}}
{{- if eq .handler "grpc" -}}
grpc:
  port: {{ .root.Values.ports.grpc }}
{{- else -}}
httpGet:
  path: {{ .path | quote }}
  port: {{ .handler }}
  scheme: {{ and (eq .handler "http") .root.Values.tls.enabled | ternary "HTTPS" "HTTP" }}
{{- end }}
{{- end }}

{{/* Port of the liveness probe, which calls /healthz. Not gRPC: its health is NOT_SERVING during a drain. */}}
{{- define "rope-service.livenessHandler" -}}
{{- if and (eq .Values.probes.handler "http") (not .Values.tls.clientCa.enabled) }}http
{{- else if .Values.ports.status }}status
{{- else }}http
{{- end }}
{{- end }}

{{- define "rope-service.probes" -}}
{{- $ready := dict "root" . "handler" .Values.probes.handler "path" "/readyz" }}
{{- $live := dict "root" . "handler" (include "rope-service.livenessHandler" .) "path" "/healthz" }}
startupProbe:
  {{- include "rope-service.probeHandler" $ready | nindent 2 }}
  {{- toYaml .Values.probes.startup | nindent 2 }}
readinessProbe:
  {{- include "rope-service.probeHandler" $ready | nindent 2 }}
  {{- toYaml .Values.probes.readiness | nindent 2 }}
livenessProbe:
  {{- include "rope-service.probeHandler" $live | nindent 2 }}
  {{- toYaml .Values.probes.liveness | nindent 2 }}
{{- end }}
