{{- define "stylefoundry.name" -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "stylefoundry.labels" -}}
app.kubernetes.io/name: stylefoundry
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{/* Which pods: (dict "root" . "part" "api") */}}
{{- define "stylefoundry.selector" -}}
app.kubernetes.io/name: stylefoundry
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{/* Settings and where the secret files are. */}}
{{- define "stylefoundry.env" -}}
- name: STYLEFOUNDRY_SECRETS_DIR
  value: /run/stylefoundry
- name: STYLEFOUNDRY_RAY_ADDRESS
  value: ray://{{ include "stylefoundry.name" . }}-ray-head-svc:10001
- name: STYLEFOUNDRY_DISPATCH_PORT
  value: "8791"
- name: STYLEFOUNDRY_AUTOSCALE
  value: "true"
{{- range $name, $value := .Values.settings }}
- name: STYLEFOUNDRY_{{ upper $name }}
  value: {{ $value | toString | quote }}
{{- end }}
{{- end }}

{{/* The Secret as files, the administrator's key only where it is used: (dict "root" . "admin" true) */}}
{{- define "stylefoundry.secretVolume" -}}
- name: secrets
  secret:
    secretName: {{ .root.Values.secrets.existing }}
    defaultMode: 0440
    items:
      - { key: stylefoundry_database_url, path: stylefoundry_database_url }
      - { key: stylefoundry_redis_url, path: stylefoundry_redis_url }
      - { key: stylefoundry_s3_access_key, path: stylefoundry_s3_access_key }
      - { key: stylefoundry_s3_secret_key, path: stylefoundry_s3_secret_key }
      {{- if .admin }}
      - { key: stylefoundry_admin_key, path: stylefoundry_admin_key }
      {{- end }}
{{- end }}

{{- define "stylefoundry.podSecurity" -}}
runAsNonRoot: true
runAsUser: 1000
fsGroup: 1000
seccompProfile: { type: RuntimeDefault }
{{- end }}

{{- define "stylefoundry.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: { drop: [ALL] }
{{- end }}

{{/* Two replicas on two machines, where there are two. */}}
{{- define "stylefoundry.spread" -}}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: ScheduleAnyway
  labelSelector:
    matchLabels: {{- include "stylefoundry.selector" . | nindent 6 }}
{{- end }}

{{- define "stylefoundry.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag }}
{{- end }}

{{- define "stylefoundry.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}
