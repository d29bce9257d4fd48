{{/* Name of all objects: that of the release, as DNS-1035, and short enough for what Spark and the operator append. */}}
{{- define "fruitpipe.name" -}}
{{- $name := default .Release.Name .Values.fullnameOverride | lower | replace "." "-" -}}
{{- if not (regexMatch "^[a-z]" $name) }}{{ $name = printf "fp-%s" $name }}{{ end -}}
{{- $name | trunc 36 | trimAll "-" -}}
{{- end }}

{{/* A version as a label, which may not have the + of one that Flux makes of a commit. */}}
{{- define "fruitpipe.label" -}}
{{- . | replace "+" "_" | trunc 63 | trimAll "-_." -}}
{{- end }}

{{- define "fruitpipe.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | include "fruitpipe.label" }}
app.kubernetes.io/version: {{ include "fruitpipe.label" .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{ include "fruitpipe.selector" . }}
{{- end }}

{{- define "fruitpipe.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride | quote }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "fruitpipe.image" -}}
{{- $image := .Values.image -}}
{{- if and (eq $image.tag "latest") (not $image.digest) }}{{ fail "image.tag: `latest` names another image tomorrow: give a version or image.digest." }}{{ end -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository (default .Chart.AppVersion $image.tag) }}
{{- end -}}
{{- end }}

{{/* Name of the driver's service account. */}}
{{- define "fruitpipe.account" -}}
{{- $account := .Values.serviceAccount -}}
{{- if not (or $account.create $account.name) }}{{ fail "serviceAccount.name: say which account the driver has, since serviceAccount.create is false." }}{{ end -}}
{{- default (include "fruitpipe.name" .) $account.name -}}
{{- end }}

{{/* Name of the Secret by which the pods of a run know each other. */}}
{{- define "fruitpipe.authentication" -}}
{{- default (printf "%s-authentication" (include "fruitpipe.name" .)) .Values.authenticationSecret -}}
{{- end }}

{{/* The config as a file. */}}
{{- define "fruitpipe.config" -}}
{{- if not .Values.pipeline.input }}{{ fail "pipeline.input: say where the images are, such as s3://bucket/images." }}{{ end -}}
{{- if not .Values.pipeline.output }}{{ fail "pipeline.output: say where results go, such as s3://bucket/results." }}{{ end -}}
{{- if or (hasPrefix "file:" .Values.pipeline.output) (not (contains "://" .Values.pipeline.output)) }}{{ fail (printf "pipeline.output: %s is a folder, and the pods of a run share none: give a bucket, such as s3://bucket/results." .Values.pipeline.output) }}{{ end -}}
{{- if hasKey .Values.pipeline "spark" }}{{ fail "pipeline.spark: has no effect on Kubernetes: write entries of spark.conf as sparkConf, spark.memory as driver.memory, and leave spark.master out." }}{{ end -}}
{{ toYaml .Values.pipeline }}
{{- end }}

{{/* Memory beside an executor's heap, MiB: its JVM's own, and for each core a Python worker with its networks and its
     decoder, with what the largest image may take there. */}}
{{- define "fruitpipe.overhead" -}}
{{- $preset := get (.Files.Get "files/presets.yaml" | fromYaml) (default "" .Values.pipeline.preset) -}}
{{- $workers := .Files.Get "files/workers.yaml" | fromYaml -}}
{{- $base := int (get $workers "worker") -}}
{{- $worker := $base -}}
{{- range default (list .Values.pipeline) .Values.pipeline.backbones -}}
{{- $given := kindIs "map" . | ternary . (dict "backbone" .) -}}
{{- $backbone := coalesce $given.backbone $preset "mobilenet_v2" -}}
{{- $another := or (hasKey $given "layer") (hasKey $given "weights") -}}
{{- $whole := $another | ternary (get $workers (printf "%s as a whole" $backbone)) "" -}}
{{- $one := default (get $workers $backbone) $whole -}}
{{- if not (or $one $.Values.executor.memoryOverhead) }}{{ fail (printf "executor.memoryOverhead: say what %s needs, such as 1600m: 300m, and for each core 1012m and its network." $backbone) }}{{ end -}}
{{- $worker = add $worker (sub (int $one) $base) -}}
{{- end -}}
{{- $image := default (get $workers "max_memory") (dig "image" "max_memory" nil .Values.pipeline) -}}
{{- $decoder := add (get $workers "decoder") (div (add (int64 $image) 1048575) 1048576) -}}
{{- default (printf "%dm" (add 300 (mul (add (int $worker) $decoder) (int .Values.executor.cores)))) .Values.executor.memoryOverhead -}}
{{- end }}

{{/* Pod template of a role: (list root role values). It needs no webhook, and passes the profile `restricted`. */}}
{{- define "fruitpipe.template" -}}
{{- $root := index . 0 }}{{ $role := index . 1 }}{{ $values := index . 2 -}}
metadata:
  labels:
    # Not those with versions: another would run the job again. Policies select pods by the chart's own, which win.
    {{- $own := include "fruitpipe.selector" $root | fromYaml | merge (dict "app.kubernetes.io/component" $role) }}
    {{- merge $own (default dict $values.labels) (default dict $root.Values.podLabels) | toYaml | nindent 4 }}
  annotations:
    # The operator runs the application again when its spec changes, and looks at nothing else.
    fruitpipe/config: {{ include "fruitpipe.config" $root | sha256sum }}
    fruitpipe/reprocess: {{ $root.Values.reprocess | quote }}
    {{- with $values.annotations }}{{ toYaml . | nindent 4 }}{{ end }}
spec:
  automountServiceAccountToken: {{ eq $role "driver" }}
  securityContext:
    runAsNonRoot: true
    runAsUser: 185
    runAsGroup: 0
    fsGroup: 185
    seccompProfile: {type: RuntimeDefault}
  {{- if hasKey $values "gracePeriodSeconds" }}
  terminationGracePeriodSeconds: {{ int64 $values.gracePeriodSeconds }}
  {{- end }}
  {{- if eq $role "driver" }}
  {{- with $root.Values.timeLimitSeconds }}
  activeDeadlineSeconds: {{ int64 . }}
  {{- end }}
  {{- end }}
  {{- with $root.Values.image.pullSecrets }}
  imagePullSecrets:
    {{- range . }}
    - name: {{ . | quote }}
    {{- end }}
  {{- end }}
  {{- range $key := list "nodeSelector" "tolerations" "affinity" "topologySpreadConstraints" "priorityClassName" }}
  {{- with index $values $key }}
  {{ $key }}: {{ toJson . }}
  {{- end }}
  {{- end }}
  containers:
    - name: spark-kubernetes-{{ $role }}
      terminationMessagePolicy: FallbackToLogsOnError
      securityContext:
        allowPrivilegeEscalation: false
        readOnlyRootFilesystem: true
        capabilities: {drop: [ALL]}
      {{- with $root.Values.secrets }}
      envFrom:
        {{- range . }}
        - secretRef: {name: {{ . | quote }}}
        {{- end }}
      {{- end }}
      {{- if or (eq $role "driver") $values.env }}
      env:
        {{- if eq $role "driver" }}
        - {name: FRUITPIPE_TERMINATION_LOG, value: /dev/termination-log}
        {{- end }}
        {{- range $name, $value := $values.env }}
        - {name: {{ $name | quote }}, value: {{ $value | quote }}}
        {{- end }}
      {{- end }}
      {{- if and (eq $role "driver") $root.Values.metrics.enabled }}
      ports:
        - {name: metrics, containerPort: {{ $root.Values.metrics.port }}, protocol: TCP}
      {{- end }}
      volumeMounts:
        - {name: spark-local-dir-1, mountPath: /tmp}
        - {name: authentication, mountPath: /etc/spark-authentication, readOnly: true}
        {{- if eq $role "driver" }}
        - {name: config, mountPath: /etc/fruitpipe, readOnly: true}
        {{- if $root.Values.eventLog.volume }}
        - {name: events, mountPath: /var/spark-events}
        {{- end }}
        {{- end }}
        {{- with $values.extraVolumeMounts }}{{ toYaml . | nindent 8 }}{{ end }}
  volumes:
    # Spark takes volumes of this name for its local directories.
    - name: spark-local-dir-1
      {{- default (dict "emptyDir" dict) $values.scratch | toYaml | nindent 6 }}
    - name: authentication
      secret: {secretName: {{ include "fruitpipe.authentication" $root }}, defaultMode: 0440}
    {{- if eq $role "driver" }}
    - name: config
      configMap: {name: {{ include "fruitpipe.name" $root }}}
    {{- with $root.Values.eventLog.volume }}
    - name: events
      {{- toYaml . | nindent 6 }}
    {{- end }}
    {{- end }}
    {{- with $values.extraVolumes }}{{ toYaml . | nindent 4 }}{{ end }}
{{- end }}

{{/* What the driver is called with. */}}
{{- define "fruitpipe.arguments" -}}
[run, --config, /etc/fruitpipe/run.yaml{{ if .Values.metrics.enabled }}, --metrics, {{ .Values.metrics.port | quote }}{{ end }}]
{{- end }}

{{/* Values of dynamic allocation, where executors come and go with the work; else nothing. */}}
{{- define "fruitpipe.allocation" -}}
{{- with .Values.executor.dynamicAllocation }}
{{- if .enabled }}
{{- if gt (int .minimum) (int .maximum) }}
{{- fail "executor.dynamicAllocation.minimum: more than the maximum. Lower one or raise the other." }}
{{- end }}
{{- toYaml . }}
{{- end }}
{{- end }}
{{- end }}

{{/* What a task has of a GPU: so little that there are tasks for all cores, by four places, rounded down. */}}
{{- define "fruitpipe.gpu.task" -}}
{{- $gpu := .Values.executor.gpu -}}
{{- if gt (int $gpu.amount) (int .Values.executor.cores) }}{{ fail (printf "executor.gpu.amount: %d GPUs for the tasks of executor.cores, which are %d at a time. Lower one or raise the other." (int $gpu.amount) (int .Values.executor.cores)) }}{{ end -}}
{{- $tasks := ceil (divf .Values.executor.cores $gpu.amount) | int -}}
{{- default (eq $tasks 1 | ternary "1" (divf (div 10000 $tasks) 10000 | toString)) $gpu.taskAmount -}}
{{- end }}

{{/* Settings of Spark that all runs have. */}}
{{- define "fruitpipe.conf" -}}
spark.decommission.enabled: "true"
# Whichever executor comes first begins, while others wait for their nodes.
spark.scheduler.minRegisteredResourcesRatio: "0"
# An executor on which tasks fail gets no more: of a stage, after four of its tasks have failed there, and none at all, as
# another takes its place, once that stage has ended well. A task fails on one twice, as the image that ended its worker
# may be decoded elsewhere the next time. Each pod is a node of its own to Spark, so that all this is by executor.
spark.excludeOnFailure.enabled: "true"
spark.excludeOnFailure.task.maxTaskAttemptsPerExecutor: "2"
spark.excludeOnFailure.stage.maxFailedTasksPerExecutor: "4"
spark.excludeOnFailure.application.maxFailedTasksPerExecutor: "4"
spark.excludeOnFailure.killExcludedExecutors: "true"
# What takes an executor three times as long as others, and more than 20 s, another one does as well: both write the same
# objects. Tasks that read vectors are shorter, so that this is for those that stand still.
spark.speculation: "true"
spark.speculation.minTaskRuntime: 20s
spark.blockManager.port: "7079"
spark.driver.port: "7078"
# Whoever reaches a port could run code there: only who has the secret is listened to, and nobody else can read along.
# As a file, since Spark would write a secret of its own making into the executors' pods, where `describe` shows it.
spark.authenticate: "true"
spark.authenticate.secret.file: /etc/spark-authentication/secret
spark.network.crypto.enabled: "true"
spark.network.crypto.saslFallback: "false"
spark.network.crypto.authEngineVersion: "2"
spark.network.crypto.cipher: AES/GCM/NoPadding
spark.io.encryption.enabled: "true"
# The user interface asks nobody who they are.
spark.ui.killEnabled: "false"
# What matters, fruitpipe says itself; and the log ends with the reason of a failure.
spark.log.level: WARN
# The service and volumes of a driver go with its pod: the driver needs no right to delete any.
spark.kubernetes.driver.service.deleteOnTermination: "false"
spark.kubernetes.driver.ownPersistentVolumeClaim: "false"
# The chart's NetworkPolicy is the one. Spark 4.3 would make another, which operators have no right to.
spark.kubernetes.driver.pod.excludedFeatureSteps: org.apache.spark.deploy.k8s.features.NetworkPolicyFeatureStep
{{- with .Values.executor.gpu }}
{{- if .amount }}
# Spark itself asks Kubernetes for them by these; what Kubeflow's operator has besides needs its webhook.
spark.executor.resource.gpu.amount: {{ int64 .amount | quote }}
spark.executor.resource.gpu.vendor: {{ trimSuffix "/gpu" .resource }}
spark.executor.resource.gpu.discoveryScript: {{ .discoveryScript }}
spark.task.resource.gpu.amount: {{ include "fruitpipe.gpu.task" $ | quote }}
{{- end }}
{{- end }}
{{- if .Values.metrics.enabled }}
spark.ui.prometheus.enabled: "true"
{{- end }}
{{- if .Values.eventLog.volume }}
spark.eventLog.enabled: "true"
spark.eventLog.dir: file:///var/spark-events
{{- end }}
{{- end }}
