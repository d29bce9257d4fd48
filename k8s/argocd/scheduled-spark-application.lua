-- Health of a ScheduledSparkApplication: whether its schedule is in force. How a run of it went, the run itself says.
-- States: https://github.com/kubeflow/spark-operator/blob/v2.5.2/api/v1beta2/scheduledsparkapplication_types.go
local status = obj.status or {}

if obj.spec.suspend then
  return {status = "Suspended", message = "starts no runs until `suspend` is false"}
elseif status.scheduleState == "FailedValidation" then
  return {status = "Degraded", message = "the schedule does not hold: " .. (status.reason or "")}
elseif status.scheduleState == "Scheduled" then
  return {status = "Healthy", message = "the next run is due at " .. (status.nextRun or "a time not known yet")}
end
return {status = "Progressing", message = "waits for the operator"}
