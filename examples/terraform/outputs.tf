output "role_arn" {
  description = "Role of the release's pods, which have it by Pod Identity."
  value       = aws_iam_role.run.arn
}

output "kubeconfig" {
  description = "Command that brings the cluster to kubectl."
  value       = "aws eks update-kubeconfig --region ${var.region} --name ${aws_eks_cluster.this.name}"
}
