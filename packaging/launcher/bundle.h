/*
 * Starting the bundled Python program, on hosts that may have no C library of their own.
 *
 * A bundle is a directory with the dynamic loader that it was built with:
 *
 *     NAME            the interpreter (interpreter.c)
 *     _internal/      the modules and every shared library, libc.so.6 among them
 *     ld-linux-*.so   the loader that belongs to that libc.so.6
 *
 * Started through its own loader, with its own library path and without the host's cache, the program depends on
 * nothing but the kernel, and LD_LIBRARY_PATH never enters the environment, where it would break the programs of a
 * task.
 *
 * A "bundle" without a loader is a plain program (a source checkout's, for instance) and is executed directly.
 */
#ifndef MESOKIT_BUNDLE_H
#define MESOKIT_BUNDLE_H

#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <unistd.h>

#define BUNDLE_LOADER "ld-linux.so.2"
#define BUNDLE_LIBRARIES "_internal"

/* The directory of the running program, links resolved; works without /proc too. 0, or -1 and errno. */
static int own_directory(char directory[PATH_MAX])
{
    char *slash;
    if (realpath("/proc/self/exe", directory) == NULL) {
        const char *name = (const char *)getauxval(AT_EXECFN);
        if (name == NULL || realpath(name, directory) == NULL)
            return -1;
    }
    slash = strrchr(directory, '/');
    *(slash == directory ? slash + 1 : slash) = '\0';
    return 0;
}

/*
 * Executes the program NAME of the bundle in DIRECTORY with the arguments of ARGV after the first, preceded by LEAD
 * (two strings at most, NULL where unused).  Returns only when that failed, with errno.
 */
static void bundle_exec(const char *directory, const char *name, const char *const lead[2], char *const argv[])
{
    static char loader[PATH_MAX], libraries[PATH_MAX], program[PATH_MAX];
    char **args;
    int count = 0, at = 0, i;

    if (snprintf(loader, sizeof loader, "%s/%s", directory, BUNDLE_LOADER) >= PATH_MAX ||
        snprintf(libraries, sizeof libraries, "%s/%s", directory, BUNDLE_LIBRARIES) >= PATH_MAX ||
        snprintf(program, sizeof program, "%s/%s", directory, name) >= PATH_MAX) {
        errno = ENAMETOOLONG;
        return;
    }
    while (argv[count] != NULL)
        count++;
    args = calloc((size_t)count + 12, sizeof *args);
    if (args == NULL)
        return;
    if (access(loader, X_OK) == 0) {
        args[at++] = loader;
        args[at++] = "--inhibit-cache";
        args[at++] = "--library-path";
        args[at++] = libraries;
        args[at++] = "--argv0";
        args[at++] = program;
        args[at++] = program;
    } else {
        args[at++] = program;
    }
    for (i = 0; i < 2 && lead[i] != NULL; i++)
        args[at++] = (char *)lead[i];
    for (i = 1; i < count; i++)
        args[at++] = argv[i];
    execv(args[0], args);
}

#endif
