{{/* The ports of both Services, without node ports. */}}
{{- define "rope-service.servicePorts" -}}
{{- $tls := .Values.tls.enabled }}
- name: http
  port: {{ .Values.service.httpPort }}
  targetPort: http
  protocol: TCP
  appProtocol: {{ .Values.service.httpAppProtocol | default ($tls | ternary "https" "http") | quote }}
- name: grpc
  port: {{ .Values.service.grpcPort }}
  targetPort: grpc
  protocol: TCP
  appProtocol: {{ .Values.service.grpcAppProtocol | default ($tls | ternary "https" "kubernetes.io/h2c") | quote }}
{{- if .Values.ports.status }}
- name: status
  port: {{ .Values.ports.status }}
  targetPort: status
  protocol: TCP
  appProtocol: http
{{- end }}
{{- end }}
