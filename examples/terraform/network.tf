data "aws_subnet" "first" {
  id = var.subnet_ids[0]
}

data "aws_route_table" "private" {
  for_each  = toset(var.subnet_ids)
  subnet_id = each.value
}

# S3 without a NAT gateway, whose price for each gigabyte is more than that of the storage.
resource "aws_vpc_endpoint" "s3" {
  vpc_id            = data.aws_subnet.first.vpc_id
  service_name      = "com.amazonaws.${var.region}.s3"
  vpc_endpoint_type = "Gateway"
  route_table_ids   = distinct([for table in data.aws_route_table.private : table.id])
}
