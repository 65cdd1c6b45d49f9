include $(sort $(wildcard $(BR2_EXTERNAL_PORTCULLIS_PATH)/package/*/*.mk))

# mkfs.erofs of the host: Buildroot builds it without zstd, which the image may want.
HOST_EROFS_UTILS_CONF_OPTS += --with-libzstd
$(HOST_EROFS_UTILS_TARGET_CONFIGURE): | host-zstd
