include $(sort $(wildcard $(BR2_EXTERNAL_PORTCULLIS_PATH)/package/*/*.mk))

# mkfs.erofs of the host: Buildroot builds it without zstd, which the image may want.
HOST_EROFS_UTILS_CONF_OPTS += --with-libzstd
$(HOST_EROFS_UTILS_TARGET_CONFIGURE): | host-zstd

# pahole writes the kernel's type information (BTF) in the order in which its threads finish. The kernel's makefiles
# tell it as many threads as make has jobs, in this variable; with one the same kernel has the same bytes each time.
LINUX_MAKE_FLAGS += JOBS=1
