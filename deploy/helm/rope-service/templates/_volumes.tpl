{{- define "rope-service.volumes" -}}
- name: tmp
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.tmp.sizeLimit }}
{{- if .Values.shm.enabled }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ .Values.shm.sizeLimit }}
{{- end }}
{{- if .Values.keys.enabled }}
- name: keys
  secret:
    secretName: {{ include "rope-service.keysSecret" . | quote }}
    defaultMode: 0444
    items:
      - key: {{ .Values.keys.existingSecret | empty | ternary "keys.toml" .Values.keys.secretKey | quote }}
        path: keys.toml
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  secret:
    secretName: {{ include "rope-service.tlsSecret" . | quote }}
    defaultMode: 0444
    items:
      - key: tls.crt
        path: tls.crt
      - key: tls.key
        path: tls.key
{{- if .Values.tls.clientCa.enabled }}
- name: client-ca
  secret:
    secretName: {{ include "rope-service.clientCaSecret" . | quote }}
    defaultMode: 0444
    items:
      - key: {{ .Values.tls.clientCa.secretKey | quote }}
        path: ca.crt
{{- end }}
{{- end }}
{{- with .Values.volumes }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Secrets are mounted as folders: a subPath would never be updated. */}}
{{- define "rope-service.volumeMounts" -}}
- name: tmp
  mountPath: /tmp
{{- if .Values.shm.enabled }}
- name: shm
  mountPath: /dev/shm
{{- end }}
{{- if .Values.keys.enabled }}
- name: keys
  mountPath: /etc/rope/keys
  readOnly: true
{{- end }}
{{- if .Values.tls.enabled }}
- name: tls
  mountPath: /etc/rope/tls
  readOnly: true
{{- if .Values.tls.clientCa.enabled }}
- name: client-ca
  mountPath: /etc/rope/client-ca
  readOnly: true
{{- end }}
{{- end }}
{{- with .Values.volumeMounts }}
{{ toYaml . }}
{{- end }}
{{- end }}
