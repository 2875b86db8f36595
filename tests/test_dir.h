/* SPDX-License-Identifier: Apache-2.0
 *
 * test_dir.h - the directories that tests make.
 */
#ifndef ASH_TEST_DIR_H
#define ASH_TEST_DIR_H

#include <dirent.h>
#include <stdio.h>
#include <unistd.h>

/* Removes a directory of plain files, if it is there. */
__attribute__((unused)) static void
test_dir_remove(const char *path)
{
    char name[512];
    DIR *d = opendir(path);

    if (d == NULL)
        return;
    for (struct dirent *x; (x = readdir(d)) != NULL;) {
        snprintf(name, sizeof(name), "%s/%s", path, x->d_name);
        if (x->d_name[0] != '.')
            unlink(name);
    }
    closedir(d);
    rmdir(path);
}

#endif
