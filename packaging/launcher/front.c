/*
 * The program that stands in front of a bundle directory: `mesokit`, `mesokit-executor`.
 * Static, so that it starts where there is no C library; it executes the bundle that lies beside it
 * (NAME.d, or the directory given at compile time relative to its own) with the same arguments.
 */
#include "bundle.h"

#ifndef PROGRAM
#error "compile with -DPROGRAM=\"name\" and -DBUNDLES=\"dir\", \"dir\"..."
#endif

static const char *const bundles[] = {BUNDLES, NULL};

int main(int argc, char **argv)
{
    static const char *const no_lead[2] = {NULL, NULL};
    char own[PATH_MAX], directory[PATH_MAX];
    int i;

    (void)argc;
    if (own_directory(own) != 0) {
        fprintf(stderr, PROGRAM ": cannot tell where I am installed: %s\n", strerror(errno));
        return 127;
    }
    for (i = 0; bundles[i] != NULL; i++) {
        char joined[PATH_MAX + 64];
        snprintf(joined, sizeof joined, "%s/%s", own, bundles[i]);
        if (realpath(joined, directory) == NULL)
            continue;
        bundle_exec(directory, PROGRAM, no_lead, argv);
        fprintf(stderr, PROGRAM ": cannot start %s/" PROGRAM ": %s\n", directory, strerror(errno));
        return 126;
    }
    fprintf(stderr, PROGRAM ": no bundle beside %s: unpack the whole archive, not this file alone\n", own);
    return 127;
}
