/* What both ends of the bench share: a clock, a growing file, and HTTP/1.1 message framing. */
#ifndef BENCH_HTTP1_H
#define BENCH_HTTP1_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>

static inline int64_t now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static inline void die(const char *what) {
    perror(what);
    exit(1);
}

static inline char *read_file(const char *path, size_t *size) {
    FILE *file = fopen(path, "rb");
    if (!file) die(path);
    fseek(file, 0, SEEK_END);
    *size = (size_t)ftell(file);
    rewind(file);
    char *text = malloc(*size + 1);
    if (!text || fread(text, 1, *size, file) != *size) die(path);
    text[*size] = 0;
    fclose(file);
    return text;
}

/* How the body of a message ends (RFC 9112, section 6.3). */
enum framing { FRAMED_BY_LENGTH, FRAMED_BY_CHUNKS, FRAMED_BY_CLOSE };

struct head {
    enum framing framing;
    int64_t length; /* of the body, under FRAMED_BY_LENGTH */
    int close;      /* "connection: close" */
};

static inline int field_is(const char *line, const char *end, const char *name, const char **value) {
    size_t n = strlen(name);
    if ((size_t)(end - line) <= n || strncasecmp(line, name, n) != 0 || line[n] != ':') return 0;
    line += n + 1;
    while (line < end && *line == ' ') line++;
    *value = line;
    return 1;
}

/* Reads the fields of a complete head, which `end` closes; `otherwise` is the framing when no field tells it. */
static inline struct head parse_head(const char *text, const char *end, enum framing otherwise) {
    struct head head = {.framing = otherwise};
    const char *line = memchr(text, '\n', (size_t)(end - text));
    while (line && ++line < end) {
        const char *next = memchr(line, '\n', (size_t)(end - line)), *value;
        const char *stop = next ? next : end;
        if (field_is(line, stop, "content-length", &value)) {
            head.length = strtoll(value, NULL, 10);
            head.framing = FRAMED_BY_LENGTH;
        } else if (field_is(line, stop, "transfer-encoding", &value)) {
            head.framing = FRAMED_BY_CHUNKS;
        } else if (field_is(line, stop, "connection", &value)) {
            head.close = strncasecmp(value, "close", 5) == 0;
        }
        line = next;
    }
    return head;
}

/* A reader of one body. Feed it with body_next() until `done`. */
struct body {
    enum framing framing;
    int64_t left; /* bytes still to come of the body, or of the chunk */
    enum { CHUNK_SIZE, CHUNK_EXTENSION, CHUNK_DATA, CHUNK_END, TRAILER, TRAILER_LINE } state;
    int done;
};

static inline struct body body_start(struct head head) {
    struct body body = {.framing = head.framing, .left = head.framing == FRAMED_BY_LENGTH ? head.length : 0};
    body.done = head.framing == FRAMED_BY_LENGTH && head.length == 0;
    return body;
}

static inline int hex_digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* Consumes at least one and at most `n` bytes; a run of content, if any, is left in `data` and `size`. Returns what was consumed. */
static inline size_t body_next(struct body *b, const char *p, size_t n, const char **data, size_t *size) {
    *size = 0;
    if (b->framing == FRAMED_BY_CLOSE || b->framing == FRAMED_BY_LENGTH || b->state == CHUNK_DATA) {
        size_t take = b->framing != FRAMED_BY_CLOSE && (int64_t)n > b->left ? (size_t)b->left : n;
        *data = p;
        *size = take;
        if (b->framing == FRAMED_BY_CLOSE) return take;
        b->left -= (int64_t)take;
        if (b->left == 0) {
            if (b->framing == FRAMED_BY_LENGTH) b->done = 1;
            else b->state = CHUNK_END;
        }
        return take;
    }
    switch (b->state) {
    case CHUNK_SIZE:
        if (hex_digit(*p) >= 0) b->left = b->left * 16 + hex_digit(*p);
        else if (*p == '\n') b->state = b->left ? CHUNK_DATA : TRAILER;
        else if (*p == ';') b->state = CHUNK_EXTENSION;
        break;
    case CHUNK_EXTENSION:
        if (*p == '\n') b->state = b->left ? CHUNK_DATA : TRAILER;
        break;
    case CHUNK_END:
        if (*p == '\n') b->state = CHUNK_SIZE;
        break;
    case TRAILER:
        if (*p == '\n') b->done = 1;
        else if (*p != '\r') b->state = TRAILER_LINE;
        break;
    case TRAILER_LINE:
        if (*p == '\n') b->state = TRAILER;
        break;
    case CHUNK_DATA:
        break;
    }
    return 1;
}

#endif
