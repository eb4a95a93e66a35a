// SPDX-License-Identifier: Apache-2.0
// /init of a tiny initramfs: says what the kernel unpacked, and powers off.
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <unistd.h>

static void show(const char *path) {
    char text[256] = "";
    struct stat found;
    if (lstat(path, &found) != 0) {
        printf("LAB %s is not there\n", path);
    } else if (S_ISLNK(found.st_mode)) {
        readlink(path, text, sizeof text - 1);
        printf("LAB %s leads to %s\n", path, text);
    } else if (S_ISDIR(found.st_mode)) {
        printf("LAB %s is a directory\n", path);
    } else {
        int file = open(path, O_RDONLY);
        if (file < 0 || read(file, text, sizeof text - 1) < 0) strcpy(text, "unreadable");
        printf("LAB %s has mode %o, %ld bytes: %s\n", path, found.st_mode & 07777, (long)found.st_size, text);
    }
}

int main(void) {
    const char *paths[] = {"/lib", "/usr/lib/kept", "/lib/new/deep/file", "/etc/replaced", "/etc/link", "/etc/script"};
    for (unsigned i = 0; i < sizeof paths / sizeof *paths; i++) show(paths[i]);
    printf("LAB end\n");
    fflush(stdout);
    sleep(1);
    reboot(RB_POWER_OFF);
    return 0;
}
