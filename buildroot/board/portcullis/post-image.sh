#!/bin/sh
# Hands the kernel over to the image builder as the base "buildroot": the folder images/portcullis-base, with base.json
# to say what it is. The folder appears whole or not at all.
#   usage: post-image.sh BINARIES_DIR   (by Buildroot, with BR2_CONFIG, BUILD_DIR, HOST_DIR, TARGET_DIR and BR2_DL_DIR)
set -eu

images=$1
here=$(dirname "$0")
# shellcheck source=/dev/null
. "$here/../../version.env"

fail() {
	echo "post-image: $*" >&2
	exit 1
}

# option NAME: a string from Buildroot's configuration.
option() {
	sed -n "s/^$1=\"\(.*\)\"\$/\1/p" "$BR2_CONFIG"
}

sha256() {
	sha256sum "$1" | cut -d ' ' -f 1
}

case $(option BR2_ARCH) in
	x86_64) architecture=x86_64 image=bzImage ;;
	aarch64) architecture=aarch64 image=vmlinuz.efi ;;
	*) fail "no image is made for the processor $(option BR2_ARCH)" ;;
esac

version=$(option BR2_LINUX_KERNEL_VERSION)
kernel=$BUILD_DIR/linux-$version
# The name that Buildroot gives to a source folder from elsewhere (LINUX_OVERRIDE_SRCDIR).
[ -d "$kernel" ] || kernel=$BUILD_DIR/linux-custom
[ -f "$images/$image" ] || fail "Buildroot made no kernel $images/$image"
release=$(cat "$kernel/include/config/kernel.release")

base=$images/portcullis-base
made=$images/.portcullis-base
rm -rf "$made"
mkdir -p "$made/modules"
install -m 644 "$images/$image" "$made/kernel"
install -m 644 "$kernel/.config" "$made/config"
install -m 644 "$kernel/System.map" "$made/System.map"

# What is built in has names, too: the image builder holds them against its list of modules.
if [ -d "$TARGET_DIR/lib/modules/$release" ]; then
	cp -R "$TARGET_DIR/lib/modules/$release/." "$made/modules/"
fi
install -m 644 "$kernel/modules.builtin" "$kernel/modules.builtin.modinfo" "$made/modules/"
modules=false
[ -z "$(find "$made/modules" -name '*.ko*' -print -quit)" ] || modules=true

source=$BR2_DL_DIR/linux/linux-$version.tar.xz
gcc=$("$HOST_DIR/bin/$architecture-linux-gcc" -dumpfullversion)
binutils=$("$HOST_DIR/bin/$architecture-linux-ld" --version | sed -n '1s/.* //p')

cat >"$made/base.json" <<JSON
{
  "format": 1,
  "architecture": "$architecture",
  "kernel_release": "$release",
  "buildroot": { "version": "$BUILDROOT_VERSION", "commit": "$BUILDROOT_COMMIT" },
  "files": {
    "kernel": "$(sha256 "$made/kernel")",
    "config": "$(sha256 "$made/config")",
    "System.map": "$(sha256 "$made/System.map")"
  },
  "modules": $modules,
  "toolchain": { "gcc": "$gcc", "binutils": "$binutils" },
  "origins": [
    {
      "name": "linux",
      "version": "$version",
      "license": "GPL-2.0-only WITH Linux-syscall-note",
      "purl": "pkg:generic/linux@$version",
      "sha256": "$(sha256 "$source")",
      "role": "kernel and modules"
    }
  ]
}
JSON

rm -rf "$base"
mv "$made" "$base"
echo "kernel $release for the image builder: $base"
