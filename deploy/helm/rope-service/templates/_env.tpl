{{/* Variables that the chart sets, and the value that a user must change instead. */}}
{{- define "rope-service.ownVariables" -}}
ROPE_DEVICE: device
ROPE_HTTP_PORT: ports.http
ROPE_GRPC_PORT: ports.grpc
ROPE_STATUS_PORT: ports.status
ROPE_KEYS_FILE: keys
ROPE_TLS_CERT_FILE: tls
ROPE_TLS_KEY_FILE: tls
ROPE_TLS_CLIENT_CA_FILE: tls.clientCa
ROPE_SESSIONS: sessions.enabled
ROPE_SESSION_OWNER: sessions.enabled
ROPE_SESSION_KEY: sessions.signingKey
ROPE_KV_BYTES: sessions.kvBytes
ROPE_KV_HOST_BYTES: sessions.kvHostBytes
ROPE_DRAIN_DELAY_S: drain.delaySeconds
ROPE_DRAIN_S: drain.seconds
{{- end }}

{{/* All variables by name, except those that come from a Secret or from the pod. */}}
{{- define "rope-service.variables" -}}
ROPE_DEVICE: {{ eq .Values.device "gpu" | ternary "cuda" "cpu" }}
ROPE_HTTP_HOST: 0.0.0.0
ROPE_HTTP_PORT: {{ include "rope-service.text" .Values.ports.http | quote }}
ROPE_GRPC_PORT: {{ include "rope-service.text" .Values.ports.grpc | quote }}
{{- if .Values.ports.status }}
ROPE_STATUS_PORT: {{ include "rope-service.text" .Values.ports.status | quote }}
{{- end }}
ROPE_DRAIN_DELAY_S: {{ include "rope-service.text" .Values.drain.delaySeconds | quote }}
ROPE_DRAIN_S: {{ include "rope-service.text" .Values.drain.seconds | quote }}
{{- /* without a limit torch would start a thread for each CPU of the node */}}
{{- $requests := .Values.resources.requests | default dict }}
{{- $limits := .Values.resources.limits | default dict }}
{{- if and (eq .Values.device "cpu") $requests.cpu (not $limits.cpu) }}
ROPE_THREADS: {{ include "rope-service.cpus" $requests.cpu | quote }}
{{- end }}
{{- if .Values.keys.enabled }}
ROPE_KEYS_FILE: /etc/rope/keys/keys.toml
{{- end }}
{{- if .Values.tls.enabled }}
ROPE_TLS_CERT_FILE: /etc/rope/tls/tls.crt
ROPE_TLS_KEY_FILE: /etc/rope/tls/tls.key
{{- if .Values.tls.clientCa.enabled }}
ROPE_TLS_CLIENT_CA_FILE: /etc/rope/client-ca/ca.crt
{{- end }}
{{- end }}
{{- if .Values.sessions.enabled }}
ROPE_SESSIONS: {{ .Values.sessions.open | ternary "open" "on" | quote }}
{{- with .Values.sessions.kvBytes }}
ROPE_KV_BYTES: {{ include "rope-service.bytes" . | quote }}
{{- end }}
{{- with .Values.sessions.kvHostBytes }}
ROPE_KV_HOST_BYTES: {{ include "rope-service.bytes" . | quote }}
{{- end }}
{{- else }}
ROPE_SESSIONS: "off"
{{- end }}
{{- range $name, $value := .Values.settings }}
{{ $name }}: {{ include "rope-service.text" $value | quote }}
{{- end }}
{{- with .Values.settings.ROPE_ALLOWED_HOSTS }}
ROPE_ALLOWED_HOSTS: {{ printf "%s,%s" . (include "rope-service.ownHosts" $) | quote }}
{{- end }}
{{- end }}

{{/*
Values of the header Host in requests from the cluster: names of Services, the name of the pod below
the headless Service, and the address of the pod, which Prometheus uses. An IPv6 address would need
brackets.
*/}}
{{- define "rope-service.ownHosts" -}}
{{- $hosts := ternary (list) (list "$(POD_IP)") (eq (.Values.settings.ROPE_HTTP_HOST | default "") "::") }}
{{- $names := list (include "rope-service.fullname" .) }}
{{- if include "rope-service.headless" . }}
{{- $headless := include "rope-service.headlessName" . }}
{{- $names = concat $names (list $headless (printf "$(POD_NAME).%s" $headless)) }}
{{- end }}
{{- if include "rope-service.routed" . }}
{{- $names = append $names (include "rope-service.routerName" .) }}
{{- end }}
{{- range $names }}
{{- $name := printf "%s.%s" . $.Release.Namespace }}
{{- $hosts = concat $hosts (list $name (printf "%s.svc" $name) (printf "%s.svc.%s" $name $.Values.clusterDomain)) }}
{{- end }}
{{- join "," $hosts }}
{{- end }}

{{/* The list env: of the container. */}}
{{- define "rope-service.env" -}}
{{- if .Values.settings.ROPE_ALLOWED_HOSTS }}
- name: POD_IP
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end }}
{{- range $name, $value := include "rope-service.variables" . | fromYaml }}
- name: {{ $name | quote }}
  value: {{ $value | quote }}
{{- end }}
{{- if .Values.sessions.enabled }}
- name: ROPE_SESSION_OWNER
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: ROPE_SESSION_KEY
  valueFrom:
    secretKeyRef:
      name: {{ include "rope-service.signingKeySecret" . | quote }}
      key: {{ .Values.sessions.signingKey.existingSecret | empty | ternary "session-key" .Values.sessions.signingKey.secretKey | quote }}
{{- end }}
{{- with .Values.env }}
{{ toYaml . }}
{{- end }}
{{- end }}
