{{/* Spec of a SparkApplication of the Kubeflow Spark operator. */}}
{{- define "fruitpipe.kubeflow" -}}
type: Python
pythonVersion: "3"
mode: cluster
sparkVersion: {{ .Values.sparkVersion | quote }}
image: {{ include "fruitpipe.image" . }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
mainApplicationFile: local:///opt/fruitpipe/main.py
arguments: {{ include "fruitpipe.arguments" . }}
restartPolicy:
  type: OnFailure
  onFailureRetries: {{ int64 .Values.restart.retries }}
  onFailureRetryInterval: {{ int64 .Values.restart.interval }}
  # Whatever it is that the operator cannot reach, a run has not begun.
  onSubmissionFailureRetries: 2
  onSubmissionFailureRetryInterval: {{ int64 .Values.restart.interval }}
{{- with .Values.timeToLiveSeconds }}
timeToLiveSeconds: {{ int64 . }}
{{- end }}
{{- with .Values.batchScheduler.name }}
batchScheduler: {{ . | quote }}
{{- with $.Values.batchScheduler.options }}
batchSchedulerOptions:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
{{- with include "fruitpipe.allocation" . | fromYaml }}
dynamicAllocation:
  enabled: true
  initialExecutors: {{ int64 .minimum }}
  minExecutors: {{ int64 .minimum }}
  maxExecutors: {{ int64 .maximum }}
  shuffleTrackingEnabled: true
{{- end }}
sparkConf:
  {{- mergeOverwrite (include "fruitpipe.conf" . | fromYaml) (default dict .Values.sparkConf) | toYaml | nindent 2 }}
driver:
  cores: {{ int64 .Values.driver.cores }}
  {{- with .Values.driver.coreRequest }}
  coreRequest: {{ . | quote }}
  {{- end }}
  memory: {{ .Values.driver.memory }}
  memoryOverhead: {{ .Values.driver.memoryOverhead }}
  serviceAccount: {{ include "fruitpipe.account" . }}
  template:
    {{- include "fruitpipe.template" (list . "driver" .Values.driver) | nindent 4 }}
executor:
  {{- if not .Values.executor.dynamicAllocation.enabled }}
  instances: {{ int64 .Values.executor.instances }}
  {{- end }}
  cores: {{ int64 .Values.executor.cores }}
  {{- with .Values.executor.coreRequest }}
  coreRequest: {{ . | quote }}
  {{- end }}
  memory: {{ .Values.executor.memory }}
  memoryOverhead: {{ include "fruitpipe.overhead" . }}
  serviceAccount: {{ include "fruitpipe.account" . }}-executor
  template:
    {{- include "fruitpipe.template" (list . "executor" .Values.executor) | nindent 4 }}
{{- end }}
