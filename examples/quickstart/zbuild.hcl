# Three images out of one Dockerfile. They share its base and pages stages, and
# each of these is built once: `zbuild graph` draws it.

variable "VERSION" {
  default     = "dev"
  description = "tag of the images, and what they say about themselves"
  validation {
    condition     = can(regex("^[A-Za-z0-9_][A-Za-z0-9_.-]*$", VERSION))
    error_message = "VERSION becomes a tag: letters, digits, '_', '.' and '-' only."
  }
}

variable "REPOSITORY" {
  default = "localhost/quickstart"
}

function "tag" {
  params = [name]
  result = "${REPOSITORY}/${name}:${VERSION}"
}

group "default" {
  targets = ["web", "worker", "cli"]
}

# A name that begins with "_" is for other targets to inherit from.
target "_common" {
  args = {
    VERSION = VERSION
  }
  labels = {
    "org.opencontainers.image.version" = VERSION
  }

  # Every RUN gets this directory, and finds in it what earlier builds left.
  cache-mount "pages" {
    target  = "/var/cache/pages"
    sharing = "locked"
  }
}

target "web" {
  inherits = ["_common"]
  target   = "web"
  tags     = [tag("web")]
}

target "worker" {
  inherits = ["_common"]
  target   = "worker"
  tags     = [tag("worker")]
}

target "cli" {
  inherits = ["_common"]
  target   = "cli"
  tags     = [tag("cli"), "${REPOSITORY}/cli:latest"]
}
