/* A load generator: one epoll thread, one request text, HTTP/1.1 keep-alive.
 *
 *   generator --port N --request FILE [--connections N] [--window S] [--windows N] [--start-at NS]
 *             [--rate R] [--requests N] [--until STATUS] [--timeout S] [--stream] [--announce] [--cpu PID]...
 *
 * Without --rate each connection sends its next request as soon as it has the answer. With --rate requests are due at
 * random times (Poisson, the same sequence in every run) whether or not earlier ones are answered, and latency counts
 * from when a request was due, so that a stall is seen by all that it delayed.
 *
 * Prints one line of JSON a window. The first begins at --start-at (CLOCK_MONOTONIC), what is before it is warm-up; so
 * several generators can measure the same time. --cpu adds the CPU time of all threads of a process within the window.
 * --requests ends with a single window when that many are answered; --until ends at the first answer of that status.
 * --stream counts events and calls an answer cut that does not end with [DONE]. --announce says when all are open.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "histogram.h"
#include "http1.h"

#define MAX_CONNECTIONS 20000
#define MAX_WAITING 65536
#define MAX_PIDS 16
static const char END[] = "data: [DONE]\n\n";

enum state { CLOSED, CONNECTING, IDLE, SENDING, HEAD, BODY };

struct conn {
    int fd, status, streamed, close, newline;
    enum state state;
    size_t sent, head_size, tail_size;
    int64_t due, deadline;
    int first_byte;
    struct body body;
    char head[16384], tail[sizeof END];
};

static struct {
    int port, connections, windows, until, stream, announce, pids, pid[MAX_PIDS];
    double window, rate, timeout;
    int64_t start_at, requests;
} opt = {.connections = 32, .windows = 1, .window = 1, .timeout = 30};

/* What is counted within a window. */
static struct {
    int64_t start, cpu[MAX_PIDS];
    uint64_t answers, events, bytes, statuses[600], refused, closed, timeout, cut, unsent;
    struct histogram latency, first_byte;
} window;

static struct conn *conns;
static int idle[MAX_CONNECTIONS], idle_count, opened, poller, clock_fd, open_streams, finished;
static int64_t waiting[MAX_WAITING], issued, ended, next_due;
static unsigned waiting_head, waiting_tail;
static char *request, scratch[1 << 18];
static size_t request_size;

static int64_t cpu_of(int pid) {
    char path[64], text[64];
    int64_t total = 0;
    snprintf(path, sizeof path, "/proc/%d/task", pid);
    DIR *tasks = opendir(path);
    for (struct dirent *task; tasks && (task = readdir(tasks));) {
        if (task->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "/proc/%d/task/%.20s/schedstat", pid, task->d_name);
        FILE *file = fopen(path, "r");
        if (file && fgets(text, sizeof text, file)) total += atoll(text);
        if (file) fclose(file);
    }
    if (tasks) closedir(tasks);
    return total;
}

static void window_begin(int64_t now) {
    memset(&window, 0, sizeof window);
    window.start = now;
    for (int i = 0; i < opt.pids; i++) window.cpu[i] = cpu_of(opt.pid[i]);
}

static void window_print(int64_t now) {
    printf("{\"seconds\":%.6f,\"answers\":%llu,\"events\":%llu,\"bytes\":%llu,\"statuses\":{", (double)(now - window.start) / 1e9,
           (unsigned long long)window.answers, (unsigned long long)window.events, (unsigned long long)window.bytes);
    const char *comma = "";
    for (int i = 0; i < 600; i++) {
        if (!window.statuses[i]) continue;
        printf("%s\"%d\":%llu", comma, i, (unsigned long long)window.statuses[i]);
        comma = ",";
    }
    printf("},\"errors\":{\"refused\":%llu,\"closed\":%llu,\"timeout\":%llu,\"cut\":%llu,\"unsent\":%llu},",
           (unsigned long long)window.refused, (unsigned long long)window.closed, (unsigned long long)window.timeout,
           (unsigned long long)window.cut, (unsigned long long)window.unsent);
    histogram_print(&window.latency, "latency_us");
    printf(",");
    histogram_print(&window.first_byte, "first_byte_us");
    printf(",\"cpu_ns\":[");
    for (int i = 0; i < opt.pids; i++) printf("%s%lld", i ? "," : "", (long long)(cpu_of(opt.pid[i]) - window.cpu[i]));
    printf("]}\n");
    fflush(stdout);
}

static void watch(struct conn *c, uint32_t what, int how) {
    struct epoll_event e = {.events = what, .data.u32 = (uint32_t)(c - conns)};
    epoll_ctl(poller, how, c->fd, &e);
}

static void send_request(struct conn *c);
static void fail(struct conn *c, uint64_t *reason);

static void begin(struct conn *c, int64_t due) {
    c->due = due;
    c->deadline = now_ns() + (int64_t)(opt.timeout * 1e9);
    c->sent = c->head_size = c->tail_size = 0;
    c->first_byte = c->streamed = c->newline = 0;
    if (c->fd >= 0) {
        c->state = SENDING;
        send_request(c);
        return;
    }
    int one = 1;
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)opt.port)};
    a.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    if (c->fd < 0) die("socket");
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    c->state = CONNECTING;
    watch(c, EPOLLIN | EPOLLOUT, EPOLL_CTL_ADD);
    if (connect(c->fd, (struct sockaddr *)&a, sizeof a) && errno != EINPROGRESS) fail(c, &window.refused);
}

/* The next request of a connection that is free, if one is due. */
static void proceed(struct conn *c) {
    if (opt.rate > 0) {
        if (waiting_head != waiting_tail) begin(c, waiting[waiting_head++ % MAX_WAITING]);
        else {
            c->state = c->fd < 0 ? CLOSED : IDLE;
            idle[idle_count++] = (int)(c - conns);
        }
    } else if (!opt.requests || issued < opt.requests) {
        issued++;
        begin(c, now_ns());
    } else c->state = c->fd < 0 ? CLOSED : IDLE;
}

static void drop(struct conn *c) {
    close(c->fd);
    c->fd = -1;
}

static void fail(struct conn *c, uint64_t *reason) {
    ++*reason;
    ended++;
    if (c->streamed) open_streams--;
    drop(c);
    if (opt.rate > 0 || now_ns() - c->due > 1000000) proceed(c);
    else c->state = CLOSED; /* an address that refuses at once: the sweep tries again */
}

static void succeed(struct conn *c) {
    ended++;
    window.answers++;
    window.statuses[c->status]++;
    histogram_add(&window.latency, now_ns() - c->due);
    if (c->streamed) open_streams--;
    if (c->status == opt.until) finished = 1;
    if (c->close || c->sent < request_size) drop(c);
    proceed(c);
}

static void send_request(struct conn *c) {
    ssize_t n = send(c->fd, request + c->sent, request_size - c->sent, MSG_NOSIGNAL);
    if (n < 0 && errno != EAGAIN) return fail(c, &window.closed);
    if (n > 0) c->sent += (size_t)n;
    watch(c, c->sent < request_size ? EPOLLIN | EPOLLOUT : EPOLLIN, EPOLL_CTL_MOD);
    if (c->sent == request_size) c->state = HEAD;
}

/* Takes in decoded content: counts its events (pairs of line ends), remembers its end. */
static void content(struct conn *c, const char *data, size_t size) {
    if (!c->first_byte) {
        c->first_byte = 1;
        histogram_add(&window.first_byte, now_ns() - c->due);
        if (opt.stream && ++open_streams == opt.connections && opt.announce) {
            printf("{\"open\":%d}\n", open_streams);
            fflush(stdout);
            opt.announce = 0;
        }
        c->streamed = opt.stream;
    }
    window.bytes += size;
    if (!opt.stream) return;
    for (const char *p = data, *end = data + size; p < end; p++) {
        const char *line = memchr(p, '\n', (size_t)(end - p));
        if (!line) {
            c->newline = 0;
            break;
        }
        if (line == p && c->newline) {
            window.events++;
            c->newline = 0;
        } else c->newline = 1;
        p = line;
    }
    size_t keep = sizeof END - 1, fresh = size < keep ? size : keep;
    size_t old = c->tail_size + fresh > keep ? keep - fresh : c->tail_size;
    memmove(c->tail, c->tail + c->tail_size - old, old);
    memcpy(c->tail + old, data + size - fresh, fresh);
    c->tail_size = old + fresh;
}

static int is_cut(struct conn *c) {
    return opt.stream && c->status == 200 && (c->tail_size != sizeof END - 1 || memcmp(c->tail, END, c->tail_size));
}

/* Takes in `n` bytes of an answer; what follows its end is dropped, as nothing may follow. */
static void take(struct conn *c, const char *p, size_t n) {
    if (c->state != BODY) {
        size_t room = sizeof c->head - c->head_size, copied = n < room ? n : room;
        memcpy(c->head + c->head_size, p, copied);
        c->head_size += copied;
        char *end = memmem(c->head, c->head_size, "\r\n\r\n", 4);
        if (!end) {
            if (c->head_size == sizeof c->head) fail(c, &window.closed);
            return;
        }
        size_t used = copied - (c->head_size - (size_t)(end + 4 - c->head));
        p += used;
        n -= used;
        c->status = atoi(c->head + 9) % 600;
        struct head head = parse_head(c->head, end, FRAMED_BY_CLOSE);
        c->close = head.close;
        c->body = body_start(head);
        c->state = BODY;
    }
    while (n && !c->body.done) {
        const char *data;
        size_t size, used = body_next(&c->body, p, n, &data, &size);
        if (size) content(c, data, size);
        p += used;
        n -= used;
    }
    if (!c->body.done) return;
    if (is_cut(c)) fail(c, &window.cut);
    else succeed(c);
}

static void readable(struct conn *c) {
    ssize_t n = recv(c->fd, scratch, sizeof scratch, 0);
    if (n > 0) return take(c, scratch, (size_t)n);
    if (n < 0 && errno == EAGAIN) return;
    if (c->state == IDLE) return drop(c); /* the server's right: a free connection, no request lost */
    if (c->state == CONNECTING) return fail(c, &window.refused);
    if (c->state == BODY && c->body.framing == FRAMED_BY_CLOSE && n == 0 && !is_cut(c)) {
        c->close = 1;
        return succeed(c);
    }
    fail(c, c->state == BODY ? &window.cut : &window.closed);
}

static void handle(struct conn *c, uint32_t what) {
    if (c->fd < 0) return;
    if (c->state == CONNECTING && what & EPOLLOUT && !(what & (EPOLLERR | EPOLLHUP))) c->state = SENDING;
    if (c->state == SENDING && what & EPOLLOUT) send_request(c);
    if (c->fd >= 0 && what & (EPOLLIN | EPOLLERR | EPOLLHUP)) readable(c);
}

static double random_unit(void) {
    static uint64_t x = 88172645463325252ULL;
    x ^= x << 13;
    x ^= x >> 7;
    x ^= x << 17;
    return ((double)(x >> 11) + 1) / 9007199254740993.0;
}

/* Starts every request that is due by now, and sets the clock to the next one. */
static void issue(int64_t now) {
    while (next_due <= now && (!opt.requests || issued < opt.requests)) {
        issued++;
        if (idle_count) begin(&conns[idle[--idle_count]], next_due);
        else if (opened < opt.connections) begin(&conns[opened++], next_due);
        else if (waiting_tail - waiting_head < MAX_WAITING) waiting[waiting_tail++ % MAX_WAITING] = next_due;
        else window.unsent++, ended++;
        next_due += (int64_t)(-log(random_unit()) / opt.rate * 1e9);
    }
    struct itimerspec t = {.it_value = {next_due / 1000000000, next_due % 1000000000}};
    timerfd_settime(clock_fd, TFD_TIMER_ABSTIME, &t, NULL);
}

static void sweep(int64_t now) {
    for (struct conn *c = conns; c < conns + opened; c++) {
        if (c->state == CLOSED && opt.rate <= 0) proceed(c);
        else if (c->state != IDLE && c->state != CLOSED && c->deadline < now) fail(c, &window.timeout);
    }
}

static void run(void) {
    struct epoll_event ready[256];
    int64_t swept = now_ns(), length = (int64_t)(opt.window * 1e9), window_end = 0;
    window_begin(swept);
    if (opt.start_at <= swept) opt.start_at = swept;
    next_due = swept;
    while (opt.rate <= 0 && opened < opt.connections) proceed(&conns[opened++]);
    for (int done = 0;;) {
        int64_t now = now_ns();
        if (!window_end && now >= opt.start_at) {
            window_begin(now);
            window_end = now + length;
        }
        if (opt.rate > 0) issue(now);
        if (now - swept > 50000000) sweep(swept = now);
        if (finished || (opt.requests && ended >= opt.requests)) return window_print(now);
        if (!opt.requests && window_end && now >= window_end) {
            window_print(now);
            if (++done == opt.windows) return;
            window_begin(now = now_ns());
            window_end = now + length;
        }
        int64_t until = window_end ? (opt.requests ? now + 50000000 : window_end) : opt.start_at;
        if (until > now + 50000000) until = now + 50000000;
        int n = epoll_wait(poller, ready, 256, (int)((until - now + 999999) / 1000000));
        for (int i = 0; i < n; i++) {
            uint64_t ticks;
            if (ready[i].data.u32 != UINT32_MAX) handle(&conns[ready[i].data.u32], ready[i].events);
            else if (read(clock_fd, &ticks, sizeof ticks) < 0 && errno != EAGAIN) die("timerfd");
        }
    }
}

static void parse(int argc, char **argv) {
    static const struct option known[] = {
        {"port", 1, 0, 'p'}, {"request", 1, 0, 'f'}, {"connections", 1, 0, 'c'}, {"window", 1, 0, 'w'},
        {"windows", 1, 0, 'n'}, {"start-at", 1, 0, 'a'}, {"rate", 1, 0, 'r'}, {"requests", 1, 0, 'q'},
        {"until", 1, 0, 'u'}, {"timeout", 1, 0, 't'}, {"stream", 0, 0, 's'}, {"announce", 0, 0, 'o'},
        {"cpu", 1, 0, 'x'}, {0, 0, 0, 0}};
    for (int o; (o = getopt_long(argc, argv, "", known, NULL)) != -1;) {
        switch (o) {
        case 'p': opt.port = atoi(optarg); break;
        case 'f': request = read_file(optarg, &request_size); break;
        case 'c': opt.connections = atoi(optarg); break;
        case 'w': opt.window = atof(optarg); break;
        case 'n': opt.windows = atoi(optarg); break;
        case 'a': opt.start_at = atoll(optarg); break;
        case 'r': opt.rate = atof(optarg); break;
        case 'q': opt.requests = atoll(optarg); break;
        case 'u': opt.until = atoi(optarg); break;
        case 't': opt.timeout = atof(optarg); break;
        case 's': opt.stream = 1; break;
        case 'o': opt.announce = 1; break;
        case 'x': if (opt.pids < MAX_PIDS) opt.pid[opt.pids++] = atoi(optarg); break;
        default: exit(2);
        }
    }
    if (opt.port && request && opt.connections > 0 && opt.connections <= MAX_CONNECTIONS) return;
    fprintf(stderr, "usage: generator --port N --request FILE [--connections 1..%d] ...\n", MAX_CONNECTIONS);
    exit(2);
}

int main(int argc, char **argv) {
    parse(argc, argv);
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    conns = calloc((size_t)opt.connections, sizeof *conns);
    if (!conns) die("calloc");
    for (int i = 0; i < opt.connections; i++) conns[i].fd = -1;
    poller = epoll_create1(0);
    clock_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK);
    struct epoll_event e = {.events = EPOLLIN, .data.u32 = UINT32_MAX};
    epoll_ctl(poller, EPOLL_CTL_ADD, clock_fd, &e);
    run();
}
