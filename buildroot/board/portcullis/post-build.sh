#!/bin/sh
# Checks what Buildroot has put into the target before anything is made of it: one program, ours, and nothing that it
# would load or that could run beside it.
#   usage: post-build.sh TARGET_DIR   (by Buildroot, with BR2_CONFIG and HOST_DIR in the environment)
set -eu

target=$1
architecture=$(sed -n 's/^BR2_ARCH="\(.*\)"$/\1/p' "$BR2_CONFIG")

fail() {
	echo "post-build: $*" >&2
	exit 1
}

# Programs by their content, not by their mode: ELF files, and scripts (a script needs an interpreter).
programs=$(find "$target" -type f ! -path "$target/lib/modules/*" -exec \
	sh -c 'for file; do case $(head -c 4 "$file" | tr "\0\177" ".E") in EELF | "#!"*) echo "$file";; esac; done' - {} +)

if grep -q '^BR2_PACKAGE_PORTCULLIS=y' "$BR2_CONFIG"; then
	wanted=$target/usr/bin/portcullis
	"$HOST_DIR/bin/$architecture-linux-readelf" --program-headers "$wanted" | grep -q INTERP &&
		fail "$wanted is not static: it asks for an interpreter"
else
	wanted=
fi
[ "$programs" = "$wanted" ] ||
	fail "the target must hold ${wanted:-no program} alone, but it has:" "$programs"
