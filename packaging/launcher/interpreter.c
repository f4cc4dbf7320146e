/*
 * The interpreter of a bundle: Python with what the bundle needs built in, and the few modules without which it
 * cannot start.  packaging/bundle/interpreter.py compiles one for each bundle, with the tables that it writes:
 *
 *     BUILTIN         name of each module in C, X(name)
 *     MODULES         frozen modules: X(name, array, is a package), `__main__` among them
 *
 * It is started with its own absolute path as argv[0] (bundle.h); /proc/self/exe is the dynamic loader.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <limits.h>
#include <malloc.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>

#include "tables.h"

#define X(name) extern PyObject *PyInit_##name(void);
BUILTIN
#undef X

extern PyObject *PyMarshal_Init(void);
extern PyObject *PyInit__imp(void);
extern PyObject *PyInit_gc(void);
extern PyObject *PyInit__ast(void);
extern PyObject *PyInit__tokenize(void);
extern PyObject *_PyWarnings_Init(void);
extern PyObject *PyInit__string(void);

/* In place of the library's own table, which would link what nothing of ours imports. */
struct _inittab _PyImport_Inittab[] = {
#define X(name) {#name, PyInit_##name},
    BUILTIN
#undef X
    {"marshal", PyMarshal_Init},
    {"_imp", PyInit__imp},
    {"_ast", PyInit__ast},
    {"_tokenize", PyInit__tokenize},
    {"builtins", NULL},
    {"sys", NULL},
    {"gc", PyInit_gc},
    {"_warnings", _PyWarnings_Init},
    {"_string", PyInit__string},
    {NULL, NULL},
};

static const struct _frozen modules[] = {
#define X(name, code, package) {name, code, sizeof code, package, NULL},
    MODULES
#undef X
    {NULL, NULL, 0, 0, NULL},
};

static void check(PyStatus status)
{
    if (PyStatus_Exception(status))
        Py_ExitStatusException(status);
}

static void path(PyConfig *config, wchar_t **field, const char *value)
{
    check(PyConfig_SetBytesString(config, field, value));
}

static void search(PyConfig *config, const char *folder)
{
    wchar_t *decoded = Py_DecodeLocale(folder, NULL);
    check(decoded ? PyWideStringList_Append(&config->module_search_paths, decoded) : PyStatus_NoMemory());
    PyMem_RawFree(decoded);
}

/* What the operating system says in its own files is UTF-8 for us, wherever we are started: no locale is asked. */
static void initialize(int argc, char **argv, const char *libraries, const char *extensions)
{
    PyPreConfig before;
    PyConfig config;

    PyPreConfig_InitIsolatedConfig(&before);
    before.utf8_mode = 1;
    check(Py_PreInitialize(&before));
    PyImport_FrozenModules = modules;
    PyConfig_InitIsolatedConfig(&config);
    config.parse_argv = 0;
    config.site_import = 0;
    config.write_bytecode = 0;
    config.pathconfig_warnings = 0;
    config.install_signal_handlers = 1;
    config.code_debug_ranges = 0;
    config.module_search_paths_set = 1;
    check(PyConfig_SetBytesArgv(&config, argc, argv));
    path(&config, &config.program_name, argv[0]);
    path(&config, &config.executable, argv[0]);
    path(&config, &config.base_executable, argv[0]);
    path(&config, &config.prefix, libraries);
    path(&config, &config.base_prefix, libraries);
    path(&config, &config.exec_prefix, libraries);
    path(&config, &config.base_exec_prefix, libraries);
    search(&config, extensions);
    search(&config, libraries);
    check(Py_InitializeFromConfig(&config));
    PyConfig_Clear(&config);
}

int main(int argc, char **argv)
{
    char libraries[PATH_MAX], extensions[PATH_MAX];
    const char *slash = argc > 0 ? strrchr(argv[0], '/') : NULL;
    PyObject *folder;
    int status = 0;

    if (slash == NULL || argv[0][0] != '/' ||
        snprintf(libraries, sizeof libraries, "%.*s/_internal", (int)(slash - argv[0]), argv[0]) >= PATH_MAX ||
        snprintf(extensions, sizeof extensions, "%s/python3.11/lib-dynload", libraries) >= PATH_MAX) {
        fprintf(stderr, "start the program beside this folder, not what is in it\n");
        return 127;
    }
    prctl(PR_SET_NAME, slash + 1);
    /* One thread runs at a time, so one arena does; and what is free goes back, however large it once was. */
    mallopt(M_ARENA_MAX, 1);
    mallopt(M_MMAP_THRESHOLD, 128 << 10);
    mallopt(M_TRIM_THRESHOLD, 128 << 10);
    initialize(argc, argv, libraries, extensions);
    folder = PyUnicode_DecodeFSDefault(libraries);
    if (folder == NULL || PySys_SetObject("_MEIPASS", folder) != 0 || PyImport_ImportFrozenModule("__main__") <= 0) {
        PyErr_Print(); /* of SystemExit it exits */
        status = 1;
    }
    return Py_FinalizeEx() < 0 ? 120 : status;
}
