################################################################################
#
# portcullis
#
################################################################################

# The source is the checkout that this tree is part of: nothing to download, and
# nothing to copy, because cargo and the image builder's cache know by
# themselves what has changed. They cannot tell Buildroot, though: a build
# begins with "make portcullis-rebuild".
PORTCULLIS_CHECKOUT = $(realpath $(BR2_EXTERNAL_PORTCULLIS_PATH)/..)
# Licences of the program and its crates: the image builder's bill of materials.
PORTCULLIS_LICENSE = see sbom.json
PORTCULLIS_REDISTRIBUTE = NO
# The host's cargo does not need our cross-compiler.
PORTCULLIS_ADD_TOOLCHAIN_DEPENDENCY = NO

# The image builder compiles our programs, here as for every other base, so that
# flags and bytes are the same; it prints "NAME PATH" for each.
define PORTCULLIS_BUILD_CMDS
	cd $(PORTCULLIS_CHECKOUT) && \
		cargo run --quiet --locked --package portcullis-image -- \
			programs >$(@D)/programs
endef

define PORTCULLIS_INSTALL_TARGET_CMDS
	$(INSTALL) -D -m 0755 "$$(sed -n 's/^portcullis //p' $(@D)/programs)" \
		$(TARGET_DIR)/usr/bin/portcullis
	ln -sf portcullis $(TARGET_DIR)/usr/bin/pctl
	mkdir -p $(TARGET_DIR)/sbin
	ln -sf ../usr/bin/portcullis $(TARGET_DIR)/sbin/init
endef

$(eval $(generic-package))
