# A Go monorepo: one toolchain, one Dockerfile for all services, one build cache.

variable "VERSION" {
  default = "dev"
}

variable "REPOSITORY" {
  default = "localhost/monorepo"
}

# The host's own Go goes into the toolchain image, so that nothing has to come
# from a registry. It lies outside the project, which may read what is in it and
# nothing else unless it is told so:
#
#   zbuild bake --allow fs.read=$(go env GOROOT)
variable "GOROOT" {
  default     = "/usr/local/go"
  description = "the Go installation that the toolchain is made of"
}

group "default" {
  targets = ["services", "check"]
}

group "services" {
  targets = ["catalog", "orders", "gateway", "mailer"]
}

# Not asked for by name: it is built because the others' context says so, and is
# neither tagged nor exported.
target "toolchain" {
  context = "toolchain"
  contexts = {
    goroot = GOROOT
  }
}

target "_go" {
  contexts = {
    toolchain = "target:toolchain"
  }
  # Shared by all services and by all builds: Go's cache is made for that.
  cache-mount "go-build" {
    target = "/root/.cache/go-build"
  }
}

target "_service" {
  inherits = ["_go"]
  target   = "service"
  labels = {
    "org.opencontainers.image.version" = VERSION
  }
}

target "catalog" {
  inherits = ["_service"]
  args     = { SERVICE = "catalog", VERSION = VERSION }
  tags     = ["${REPOSITORY}/catalog:${VERSION}"]
}

target "orders" {
  inherits = ["_service"]
  args     = { SERVICE = "orders", VERSION = VERSION }
  tags     = ["${REPOSITORY}/orders:${VERSION}"]
}

target "gateway" {
  inherits = ["_service"]
  args     = { SERVICE = "gateway", VERSION = VERSION }
  tags     = ["${REPOSITORY}/gateway:${VERSION}"]
}

target "mailer" {
  inherits = ["_service"]
  args     = { SERVICE = "mailer", VERSION = VERSION }
  tags     = ["${REPOSITORY}/mailer:${VERSION}"]
}

# Runs the tests. What it builds is of no interest, only that it does.
target "check" {
  inherits = ["_go"]
  target   = "check"
  output   = ["type=cacheonly"]
}
