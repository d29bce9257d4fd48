locals {
  # The rights that the tests run with, for these buckets.
  policy = replace(replace(file("${path.module}/../aws/policy.json"),
  "my-photos", var.images_bucket), "my-results", var.results_bucket)
  accounts = toset([var.release, "${var.release}-executor"])
}

data "aws_iam_policy_document" "trust" {
  statement {
    actions = ["sts:AssumeRole", "sts:TagSession"]
    principals {
      type        = "Service"
      identifiers = ["pods.eks.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/kubernetes-namespace"
      values   = [var.namespace]
    }
    condition {
      test     = "StringEquals"
      variable = "aws:RequestTag/kubernetes-service-account"
      values   = local.accounts
    }
  }
}

resource "aws_iam_role" "run" {
  name_prefix        = "fruitpipe-"
  assume_role_policy = data.aws_iam_policy_document.trust.json
}

resource "aws_iam_role_policy" "buckets" {
  role   = aws_iam_role.run.id
  policy = local.policy
}

data "aws_iam_policy_document" "key" {
  statement {
    actions   = ["kms:Decrypt", "kms:GenerateDataKey"]
    resources = [aws_kms_key.results.arn]
  }
}

resource "aws_iam_role_policy" "key" {
  role   = aws_iam_role.run.id
  policy = data.aws_iam_policy_document.key.json
}

resource "aws_eks_pod_identity_association" "accounts" {
  for_each        = local.accounts
  cluster_name    = aws_eks_cluster.this.name
  namespace       = var.namespace
  service_account = each.value
  role_arn        = aws_iam_role.run.arn
}
