/* What the load generators share: errors, time, files and percentiles. */

#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <fcntl.h>
#include <unistd.h>

enum { HEAD_LIMIT = 16384, READ_SIZE = 1 << 18 };

struct content {
    const char *bytes;
    size_t size;
};

/* Numbers in the order in which they were measured, until they are sorted. */
struct samples {
    float *values;
    size_t size, capacity;
};

static void fail(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    exit(1);
}

static double now(void) {
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return time.tv_sec + time.tv_nsec * 1e-9;
}

static double processor_s(void) {
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return usage.ru_utime.tv_sec + usage.ru_stime.tv_sec +
           (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) * 1e-6;
}

static void *allocate(size_t size) {
    void *memory = calloc(1, size ? size : 1);
    if (!memory)
        fail("no memory for %zu bytes", size);
    return memory;
}

static struct content map_file(const char *path) {
    struct stat status;
    int fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &status))
        fail("%s: %s", path, strerror(errno));
    struct content content = {"", status.st_size};
    if (content.size)
        content.bytes = mmap(NULL, content.size, PROT_READ, MAP_PRIVATE | MAP_POPULATE, fd, 0);
    if (content.bytes == MAP_FAILED)
        fail("%s: %s", path, strerror(errno));
    close(fd);
    return content;
}

static void add_sample(struct samples *samples, double value) {
    if (samples->size == samples->capacity) {
        samples->capacity = samples->capacity ? 2 * samples->capacity : 1 << 16;
        samples->values = realloc(samples->values, samples->capacity * sizeof *samples->values);
        if (!samples->values)
            fail("no memory for %zu numbers", samples->capacity);
    }
    samples->values[samples->size++] = value;
}

static int compare_floats(const void *a, const void *b) {
    float x = *(const float *)a, y = *(const float *)b;
    return (x > y) - (x < y);
}

static void sort_samples(struct samples *samples) {
    qsort(samples->values, samples->size, sizeof *samples->values, compare_floats);
}
