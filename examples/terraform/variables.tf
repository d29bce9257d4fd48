variable "region" {
  description = "Region of buckets and cluster."
  type        = string
  default     = "eu-west-3"
}

variable "cluster" {
  description = "Name of the EKS cluster."
  type        = string
  default     = "fruitpipe"
}

variable "images_bucket" {
  description = "Bucket that holds the images, below images/; it exists."
  type        = string
}

variable "results_bucket" {
  description = "Bucket for results, which is made."
  type        = string
}

variable "namespace" {
  description = "Namespace of the release."
  type        = string
  default     = "fruits"
}

variable "release" {
  description = "Name of the release."
  type        = string
  default     = "fruits"
}

variable "subnet_ids" {
  description = "Private subnets of the cluster, in two zones at least."
  type        = list(string)
}

variable "budget_email" {
  description = "Who is told when the month is forecast to cost more than budget_usd."
  type        = string
}

variable "budget_usd" {
  description = "Limit of a month, US dollars."
  type        = number
  default     = 100
}
