#!/usr/bin/env bash
# Builds the Dockerfile and runs the image where there is no Docker engine: buildah builds it and runs it in a chroot, on
# a Debian made by debootstrap that stands in for the official Python image. Needs root; installs both tools by apt.
# The stand-in is made once and kept in $XDG_CACHE_HOME or /var/tmp (200 MB); nothing else is left behind.
# usage: scripts/image-check.sh [--forget]      --forget removes the stand-in, and does nothing else
set -euo pipefail
cd "$(dirname "$0")/.."

readonly base=python:3.11-slim-bookworm
readonly release=bookworm
readonly image=midstream:image-check
readonly small_image=midstream:image-check-small
readonly cache=${XDG_CACHE_HOME:-/var/tmp}/midstream-image-check
work=

step() {
    printf '\n== %s\n' "$*"
}

fail() {
    printf 'image-check: %s\n' "$@" >&2
    exit 1
}

# A run that was killed leaves its folders in TMPDIR.
store() {
    TMPDIR=$work buildah --root "$cache/store" --runroot "$work/run" --storage-driver "$(<"$cache/driver")" "$@"
}

# What buildah and debootstrap leave mounted if they are interrupted.
unmount_below() {
    local target
    while read -r target; do
        umount "$target"
    done < <(findmnt --raw --noheadings --output TARGET | grep "^$1/" | sort --reverse)
}

# Of what this run made; the stand-in stays.
clean_up() {
    [ -n "$work" ] || return 0
    if [ -e "$cache/driver" ]; then
        store rm --all >/dev/null 2>&1 || true
        store rmi --force "$image" "$small_image" >/dev/null 2>&1 || true
        store rmi --prune --force >/dev/null 2>&1 || true
    fi
    unmount_below "$cache"
    unmount_below "$work"
    rm -rf --one-file-system "$work"
}

install_tools() {
    local missing=() tool
    for tool in buildah debootstrap; do
        command -v "$tool" >/dev/null || missing+=("$tool")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || fail "${missing[*]} missing, and there is no apt-get to install it with"
    step "installing ${missing[*]}"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends \
        "${missing[@]}" debian-archive-keyring >"$work/apt.log" ||
        fail "apt-get could not install ${missing[*]}:" "$(tail -5 "$work/apt.log")"
}

# overlay is many times faster and smaller, but cannot lie on another overlay.
choose_driver() {
    local driver
    [ ! -e "$cache/driver" ] || return 0
    for driver in overlay vfs; do
        mkdir -p "$cache/probe"
        if buildah --root "$cache/probe" --runroot "$work/probe" --storage-driver "$driver" from scratch >/dev/null 2>&1 &&
            buildah --root "$cache/probe" --runroot "$work/probe" --storage-driver "$driver" rm --all >/dev/null 2>&1; then
            echo "$driver" >"$cache/driver"
        fi
        rm -rf "$cache/probe" "$work/probe"
        [ ! -e "$cache/driver" ] || return 0
    done
    fail "buildah cannot keep images in $cache with either storage driver, overlay or vfs"
}

# Like the official image it has python and pip on the path, no compiled modules, and an apt that keeps no caches.
make_base() {
    local container
    if store inspect --type image "$base" >/dev/null 2>&1; then
        echo "kept from an earlier run in $cache"
        return
    fi
    debootstrap --variant=minbase --include=python3,python3-venv,ca-certificates "$release" "$work/root" \
        >"$work/debootstrap.log" 2>&1 || fail "debootstrap failed:" "$(tail -5 "$work/debootstrap.log")"
    rm -rf "$work/root/var/cache/apt"/* "$work/root/var/lib/apt/lists"/*
    echo 'Dir::Cache::pkgcache ""; Dir::Cache::srcpkgcache ""; APT::Keep-Downloaded-Packages "false";' \
        >"$work/root/etc/apt/apt.conf.d/keep-nothing"
    find "$work/root/usr" -name '*.pyc' -delete
    container=$(store from scratch)
    store add --quiet "$container" "$work/root" / >/dev/null
    store run --isolation chroot "$container" -- python3 -B -m venv /usr/local
    store commit --quiet --rm "$container" "$base" >/dev/null
    rm -rf --one-file-system "$work/root"
    echo "made, and kept in $cache"
}

# This machine's certificates and pip settings are lent to the build, and are not in the image.
build() {
    local name=$1 volumes=()
    shift
    [ ! -d /etc/ssl/certs ] || volumes+=(--volume /etc/ssl/certs:/etc/ssl/certs:ro)
    [ ! -f /etc/pip.conf ] || volumes+=(--volume /etc/pip.conf:/etc/pip.conf:ro)
    store bud --isolation chroot --pull-never --network host --format docker \
        "${volumes[@]}" "$@" --tag "$name" . >"$work/build.log" 2>&1 || fail "the build failed:" "$(tail -25 "$work/build.log")"
    echo "built $name"
}

try_image() {
    TMPDIR=$work PYTHONPATH=tests .venv/bin/python scripts/image_run.py "$@" -- \
        buildah --root "$cache/store" --runroot "$work/run" --storage-driver "$(<"$cache/driver")"
}

if [ "${1:-}" = --forget ]; then
    unmount_below "$cache"
    rm -rf --one-file-system "$cache"
    exit
fi
[ "$(id -u)" = 0 ] || fail "this needs root: buildah and debootstrap make root file systems and chroot into them"
[ -x .venv/bin/hadolint ] || fail "hadolint is not in .venv; run: make .venv/.development-installed"
work=$(mktemp -d /var/tmp/midstream-image-check.XXXXXX)
trap clean_up EXIT
trap 'exit 130' INT TERM
mkdir -p "$cache"

step "hadolint"
.venv/bin/hadolint Dockerfile
echo "nothing to complain about"
install_tools
choose_driver
step "stand-in for $base (Debian $release by debootstrap)"
make_base
step "building"
build "$image"
step "running"
try_image "$image"
step "without the local model"
build "$small_image" --build-arg WITHOUT_LOCAL_MODEL=1
try_image "$small_image" --without-local-model
cat <<'END'

image-check: passed. NOT checked, because it takes a container engine:
  - the official base image; this was Debian's own Python 3.11 in a root file system of debootstrap
  - the server as process 1, limits of memory and processor, network isolation and published ports
  - named volumes and bind mounts, a read-only root file system, compose and Kubernetes
END
