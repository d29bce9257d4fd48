{{/* Name of a SparkApplication of Apache's Spark operator. That starts none again, so each spec is one of its own. */}}
{{- define "fruitpipe.apache.name" -}}
{{ include "fruitpipe.name" . }}-{{ include "fruitpipe.apache" . | sha256sum | trunc 7 }}
{{- end }}

{{/* Refuse values that Apache's operator has nothing for. */}}
{{- define "fruitpipe.apache.refuse" -}}
{{- if .Values.schedule.cron }}{{ fail "schedule.cron: Apache's operator has no schedules: set `operator` to kubeflow, or start each run by a new `reprocess`." }}{{ end -}}
{{- if .Values.queue }}{{ fail "queue: Apache's operator has no queues, nor does Kueue know its applications: set `operator` to kubeflow." }}{{ end -}}
{{- if .Values.batchScheduler.name }}{{ fail "batchScheduler.name: Apache's operator leaves schedulers to Spark: say it as sparkConf, with spark.kubernetes.scheduler.name, or set `operator` to kubeflow." }}{{ end -}}
{{- end }}

{{/* What Kubeflow's operator has fields for, as settings of Spark. */}}
{{- define "fruitpipe.apache.conf" -}}
# It becomes the application's, and what executors are called after.
spark.app.name: {{ include "fruitpipe.name" . }}
spark.kubernetes.container.image: {{ include "fruitpipe.image" . }}
spark.kubernetes.container.image.pullPolicy: {{ .Values.image.pullPolicy }}
spark.kubernetes.driver.podTemplateContainerName: spark-kubernetes-driver
spark.kubernetes.executor.podTemplateContainerName: spark-kubernetes-executor
spark.kubernetes.authenticate.driver.serviceAccountName: {{ include "fruitpipe.account" . }}
spark.kubernetes.authenticate.executor.serviceAccountName: {{ include "fruitpipe.account" . }}-executor
# The operator would leave them there.
spark.kubernetes.executor.deleteOnTermination: "true"
spark.driver.cores: {{ int64 .Values.driver.cores | quote }}
spark.driver.memory: {{ .Values.driver.memory }}
spark.driver.memoryOverhead: {{ .Values.driver.memoryOverhead }}
spark.executor.cores: {{ int64 .Values.executor.cores | quote }}
spark.executor.memory: {{ .Values.executor.memory }}
spark.executor.memoryOverhead: {{ include "fruitpipe.overhead" . }}
{{- with .Values.driver.coreRequest }}
spark.kubernetes.driver.request.cores: {{ . | quote }}
{{- end }}
{{- with .Values.executor.coreRequest }}
spark.kubernetes.executor.request.cores: {{ . | quote }}
{{- end }}
{{- with include "fruitpipe.allocation" . | fromYaml }}
spark.dynamicAllocation.enabled: "true"
spark.dynamicAllocation.initialExecutors: {{ int64 .minimum | quote }}
spark.dynamicAllocation.minExecutors: {{ int64 .minimum | quote }}
spark.dynamicAllocation.maxExecutors: {{ int64 .maximum | quote }}
spark.dynamicAllocation.shuffleTracking.enabled: "true"
{{- else }}
spark.executor.instances: {{ int64 .Values.executor.instances | quote }}
{{- end }}
{{- end }}

{{/* Spec of a SparkApplication of Apache's Spark operator. */}}
{{- define "fruitpipe.apache" -}}
runtimeVersions:
  sparkVersion: {{ .Values.sparkVersion | quote }}
mainClass: org.apache.spark.deploy.PythonRunner
pyFiles: local:///opt/fruitpipe/main.py
driverArgs: {{ include "fruitpipe.arguments" . }}
applicationTolerations:
  restartConfig:
    {{- if .Values.restart.retries }}
    restartPolicy: OnFailure
    maxRestartAttempts: {{ int64 .Values.restart.retries }}
    restartBackoffMillis: {{ mul .Values.restart.interval 1000 }}
    {{- else }}
    restartPolicy: Never
    {{- end }}
  # The driver's pod says what there was to say. Where runs are tried again, the operator deletes it all the same.
  resourceRetainPolicy: Always
  {{- with .Values.timeToLiveSeconds }}
  ttlAfterStopMillis: {{ mul . 1000 }}
  {{- end }}
sparkConf:
  {{- mergeOverwrite (include "fruitpipe.conf" . | fromYaml) (include "fruitpipe.apache.conf" . | fromYaml) (default dict .Values.sparkConf) | toYaml | nindent 2 }}
driverSpec:
  podTemplateSpec:
    {{- include "fruitpipe.template" (list . "driver" .Values.driver) | nindent 4 }}
executorSpec:
  podTemplateSpec:
    {{- include "fruitpipe.template" (list . "executor" .Values.executor) | nindent 4 }}
{{- end }}
