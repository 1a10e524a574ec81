/* Azure OpenAI regions that cost next to nothing: one epoll thread, one fixed answer.
 *
 *   upstream --region PORT:LIMIT:REMAINING [--region ...] --json FILE
 *   upstream --region PORT:LIMIT:REMAINING [--region ...] --events FILE [--every-us N] [--batch N]
 *
 * A POST is answered with the file: as JSON, or as a stream of its events. With --every-us a stream is many writes, that
 * far apart, of --batch events each (default 1); without it, one. A GET is answered with an empty list, for probes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include "http1.h"

#define MAX_FD 65536
#define MAX_REGIONS 8
#define MAX_EVENTS 4096
#define SLOTS 32 /* streams are spread over the time between two events, so that they don't come in one burst */

struct text {
    char *at;
    size_t size;
};

struct region {
    int port, listener;
    struct text head;   /* of a stream that is paced */
    struct text answer; /* all of it */
};

struct conn {
    int fd, event; /* the next event of a paced stream, -1 when none runs */
    struct region *region;
    char head[16384];
    size_t head_size;
    int in_body, is_get;
    struct body body;
    struct text out; /* what the socket did not take yet */
};

static struct conn *conns[MAX_FD];
static struct region regions[MAX_REGIONS];
static int region_count, poller, highest;
static struct text events[MAX_EVENTS], probe;
static int event_count, batch = 1;
static long every_us;
static char scratch[1 << 18];

static void watch(struct conn *c, uint32_t what, int how) {
    struct epoll_event e = {.events = what, .data.fd = c->fd};
    epoll_ctl(poller, how, c->fd, &e);
}

static void hang_up(struct conn *c) {
    conns[c->fd] = NULL;
    close(c->fd);
    free(c);
}

/* Writes what the socket takes and keeps the rest, which must stay valid. Returns 0 when the peer has gone. */
static int send_text(struct conn *c, struct text t) {
    while (t.size) {
        ssize_t n = write(c->fd, t.at, t.size);
        if (n < 0 && errno == EAGAIN) break;
        if (n < 0) return 0;
        t.at += n;
        t.size -= (size_t)n;
    }
    if (t.size || c->out.size) watch(c, t.size ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
    c->out = t;
    return 1;
}

static int answer(struct conn *c) {
    if (c->is_get) return send_text(c, probe);
    if (!every_us) return send_text(c, c->region->answer);
    c->event = 0;
    return send_text(c, c->region->head);
}

/* Takes in `n` bytes of requests. Returns 0 when the connection is to be closed. */
static int take(struct conn *c, const char *p, size_t n) {
    while (n) {
        if (!c->in_body) {
            size_t room = sizeof c->head - c->head_size, copied = n < room ? n : room;
            size_t from = c->head_size > 3 ? c->head_size - 3 : 0;
            memcpy(c->head + c->head_size, p, copied);
            c->head_size += copied;
            char *end = memmem(c->head + from, c->head_size - from, "\r\n\r\n", 4);
            if (!end) return c->head_size < sizeof c->head;
            size_t used = copied - (c->head_size - (size_t)(end + 4 - c->head));
            p += used;
            n -= used;
            c->is_get = !memcmp(c->head, "GET ", 4);
            c->body = body_start(parse_head(c->head, end, FRAMED_BY_LENGTH));
            c->in_body = 1;
            c->head_size = 0;
        }
        while (n && !c->body.done) {
            const char *data;
            size_t size, used = body_next(&c->body, p, n, &data, &size);
            p += used;
            n -= used;
        }
        if (!c->body.done) return 1;
        c->in_body = 0;
        if (!answer(c)) return 0;
    }
    return 1;
}

static void readable(struct conn *c) {
    ssize_t n = read(c->fd, scratch, sizeof scratch);
    if (n < 0 && errno == EAGAIN) return;
    if (n <= 0 || !take(c, scratch, (size_t)n)) hang_up(c);
}

static void admit(struct region *r) {
    int one = 1, fd = accept4(r->listener, NULL, NULL, SOCK_NONBLOCK);
    if (fd < 0) return;
    if (fd >= MAX_FD) {
        close(fd);
        return;
    }
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct conn *c = calloc(1, sizeof *c);
    if (!c) die("calloc");
    c->fd = fd;
    c->event = -1;
    c->region = r;
    conns[fd] = c;
    if (fd > highest) highest = fd;
    watch(c, EPOLLIN, EPOLL_CTL_ADD);
}

/* Sends the next event of every paced stream of this slot. */
static void tick(int slot) {
    for (int fd = slot; fd <= highest; fd += SLOTS) {
        struct conn *c = conns[fd];
        if (!c || c->event < 0 || c->out.size) continue;
        struct text event = events[c->event];
        if (++c->event == event_count) c->event = -1;
        if (!send_text(c, event)) hang_up(c);
    }
}

static struct text join(struct text a, struct text b) {
    struct text both = {malloc(a.size + b.size), a.size + b.size};
    if (!both.at) die("malloc");
    memcpy(both.at, a.at, a.size);
    memcpy(both.at + a.size, b.at, b.size);
    return both;
}

static struct text line(const char *format, long a, long b) {
    struct text t;
    int n = asprintf(&t.at, format, a, b);
    if (n < 0) die("asprintf");
    t.size = (size_t)n;
    return t;
}

/* Cuts a text of server-sent events into chunks of the chunked coding, `batch` events each, and the closing one. */
static void cut_events(char *text) {
    while (*text && event_count < MAX_EVENTS) {
        char *end = text;
        for (int i = 0; i < batch; i++) {
            char *next = strstr(end, "\n\n");
            if (next) end = next + 2;
        }
        if (end == text) break;
        struct text content = {text, (size_t)(end - text)};
        struct text event = join(line("%lx\r\n", (long)content.size, 0), content);
        events[event_count++] = join(event, (struct text){"\r\n", 2});
        text = end;
    }
    if (!event_count) return;
    struct text *last = &events[event_count - 1];
    *last = join(*last, (struct text){"0\r\n\r\n", 5});
}

static void add_region(const char *arg) {
    struct region *r = &regions[region_count++];
    long limit = 0, remaining = 0;
    if (region_count > MAX_REGIONS || sscanf(arg, "%d:%ld:%ld", &r->port, &limit, &remaining) != 3) {
        fprintf(stderr, "--region wants PORT:LIMIT:REMAINING, not %s\n", arg);
        exit(2);
    }
    r->head = line("HTTP/1.1 200 OK\r\nx-ratelimit-limit-tokens: %ld\r\nx-ratelimit-remaining-tokens: %ld\r\n"
                   "x-ratelimit-limit-requests: 18000\r\nx-ratelimit-remaining-requests: 17000\r\n"
                   "x-ms-region: East US\r\nx-request-id: 7a0d6b1e-1111-4444-8888-123456789abc\r\n"
                   "apim-request-id: 2f0d6b1e-1111-4444-8888-123456789abc\r\n", limit, remaining);
}

static void finish_regions(struct text json) {
    for (struct region *r = regions; r < regions + region_count; r++) {
        if (event_count) {
            r->head = join(r->head, line("content-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n", 0, 0));
            r->answer = r->head;
            for (int i = 0; i < event_count; i++) r->answer = join(r->answer, events[i]);
        } else {
            struct text fields = line("content-type: application/json\r\ncontent-length: %ld\r\n\r\n", (long)json.size, 0);
            r->answer = join(join(r->head, fields), json);
        }
        int one = 1;
        struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)r->port)};
        a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        r->listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
        setsockopt(r->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
        if (bind(r->listener, (struct sockaddr *)&a, sizeof a) || listen(r->listener, 4096)) die("listen");
        struct epoll_event e = {.events = EPOLLIN, .data.fd = r->listener};
        epoll_ctl(poller, EPOLL_CTL_ADD, r->listener, &e);
    }
}

static struct region *listener_of(int fd) {
    for (int i = 0; i < region_count; i++)
        if (regions[i].listener == fd) return &regions[i];
    return NULL;
}

static void serve(void) {
    struct epoll_event ready[256];
    int64_t step = every_us * 1000 / SLOTS, due = now_ns() + step;
    for (int slot = 0;;) {
        int64_t wait = every_us ? due - now_ns() : 0;
        int n = epoll_wait(poller, ready, 256, !every_us ? -1 : wait <= 0 ? 0 : (int)((wait + 999999) / 1000000));
        for (int i = 0; i < n; i++) {
            int fd = ready[i].data.fd;
            struct region *region = listener_of(fd);
            struct conn *c = conns[fd];
            if (region) admit(region);
            else if (c && ready[i].events & EPOLLOUT && c->out.size && !send_text(c, c->out)) hang_up(c);
            else if (c && ready[i].events & ~(uint32_t)EPOLLOUT) readable(c);
        }
        if (every_us && now_ns() > due + step * SLOTS) due = now_ns(); /* late: skip, rather than send bursts */
        for (; every_us && now_ns() >= due; due += step) tick(slot++ % SLOTS);
    }
}

int main(int argc, char **argv) {
    static const struct option known[] = {{"region", 1, 0, 'r'}, {"json", 1, 0, 'j'}, {"events", 1, 0, 'e'},
                                          {"every-us", 1, 0, 'u'}, {"batch", 1, 0, 'b'},
                                          {0, 0, 0, 0}};
    struct text json = {0}, stream = {0};
    for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        if (o == 'r') add_region(optarg);
        else if (o == 'j') json.at = read_file(optarg, &json.size);
        else if (o == 'e') stream.at = read_file(optarg, &stream.size);
        else if (o == 'u') every_us = atol(optarg);
        else if (o == 'b') batch = atoi(optarg);
        else return 2;
    }
    if (stream.at) cut_events(stream.at);
    if (!region_count || (!json.at && !event_count)) {
        fprintf(stderr, "usage: upstream --region PORT:LIMIT:REMAINING (--json FILE | --events FILE [--every-us N])\n");
        return 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    poller = epoll_create1(0);
    probe = line("HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 27\r\n\r\n"
                 "{\"object\":\"list\",\"data\":[]}", 0, 0);
    finish_regions(json);
    printf("ready\n");
    fflush(stdout);
    serve();
}
