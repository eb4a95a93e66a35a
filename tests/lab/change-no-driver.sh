# SPDX-License-Identifier: Apache-2.0
# A kernel without the driver for the new machine's disk controller.
find "/mnt/lib/modules/$version" -name 'megaraid_sas.ko*' -delete
depmod -b /mnt "$version"
if grep -q megaraid_sas "/mnt/lib/modules/$version/modules.dep"; then exit 1; fi
