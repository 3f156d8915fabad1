# The image: one program, what it needs to run, two users. No shell, no package manager, nothing to write to.
#
#   docker build -t sf-token-proxy .
#
# The program is built in BUILDER, and what it runs on is taken from BUILDER's Debian (packaging/base.sh). Both can come from elsewhere:
#
#   --build-context binary=DIR   takes DIR/sf-token-proxy, built by packaging/binary.sh; nothing is compiled
#   --build-arg BASE=IMAGE       any image with glibc 2.36 or later, libgcc and CA certificates, such as a "distroless" one for C programs
#
# tests/image/build.sh does both.
# By digest, as in .github/workflows/ci.yml; docs/releasing.md says how it is moved.
ARG BUILDER=rust:1.95-bookworm@sha256:6258907abe69656e41cd992e0b705cdcfabcbbe3db374f92ed2d47121282d4a1
ARG BASE=base

FROM ${BUILDER} AS build
WORKDIR /build
COPY . .
RUN packaging/binary.sh /out && packaging/base.sh /out/sf-token-proxy /out/base

FROM scratch AS binary
COPY --from=build /out/ /

FROM scratch AS base
COPY --from=binary /base/ /

FROM ${BASE}
# What `docker inspect` and registries show; the release gives them all.
ARG VERSION=0.0.0-unreleased
ARG REVISION=unknown
ARG CREATED=1970-01-01T00:00:00Z
ARG SOURCE=""
LABEL org.opencontainers.image.title="sf-token-proxy" \
      org.opencontainers.image.description="A local reverse proxy that gives any app a logged-in Salesforce: it adds live access tokens, renews them, and repeats what an expired session refused." \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.source="${SOURCE}" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.created="${CREATED}"
COPY --from=binary --chown=0:0 --chmod=0755 /sf-token-proxy /sf-token-proxy
# By number: Kubernetes cannot see that a name is not root.
USER 65532:65532
# Probes and metrics. The proxy's own port is on loopback, for the containers of the same pod.
EXPOSE 9090
ENTRYPOINT ["/sf-token-proxy"]
CMD ["run"]
