/* Moves the wall clock by the seconds in the file $REVIEW_CLOCK. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, at);
    const char *path = getenv("REVIEW_CLOCK");
    if (id == CLOCK_REALTIME && path) {
        FILE *file = fopen(path, "r");
        long by = 0;
        if (file) {
            if (fscanf(file, "%ld", &by) == 1) at->tv_sec += by;
            fclose(file);
        }
    }
    return done;
}
