/*
 * A host in C, with libzmq (4.3 or newer) and msgpack-c: ten steps against a daemon that serves the example plugins.
 *
 *   apt-get install gcc libzmq3-dev libmsgpack-dev
 *   cc -o host host.c -lzmq -lmsgpackc
 *   ./host ipc:///run/apex-exec/host.sock
 *
 * With `reconnect` as second argument it goes through the end and the return of the daemon as well (see `reconnect`).
 */
#include <inttypes.h>
#include <msgpack.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <zmq.h>

#define USER "11111111-2222-4333-8444-555555555555"
#define DEADLINE_MS 5000
#define GRACE_MS 500 /* how much later than its deadline an answer may arrive; after that none will */
#define LARGEST 9007199254740991 /* 2^53 - 1: what a result may hold and JavaScript can read */
#define LARGE_CALLS 8
#define HEARTBEAT_MS 1000
#define SILENCE_MS 10000 /* a daemon that answers no heartbeat for this time is gone */

/* One message of the daemon. `parsed` points into `frame`. */
struct answer {
  zmq_msg_t frame;
  msgpack_unpacked parsed;
  struct answer *next;
};

/* One connection: `body` is the request that is being written, `early` the answers that nobody has waited for yet. */
struct host {
  void *context, *socket;
  size_t body_bytes_max;
  uint64_t id;
  msgpack_sbuffer body;
  msgpack_packer pack;
  struct answer *early;
};

static const msgpack_object NOTHING = {.type = MSGPACK_OBJECT_NIL};

static void fail(const char *what, ...) {
  va_list arguments;
  va_start(arguments, what);
  vfprintf(stderr, what, arguments);
  fputc('\n', stderr);
  exit(1);
}

static int64_t now_ms(void) {
  struct timespec now;
  clock_gettime(CLOCK_MONOTONIC, &now);
  return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void sleep_ms(long ms) {
  nanosleep(&(struct timespec){ms / 1000, ms % 1000 * 1000000}, NULL);
}

/* ------------------------------------------------------------------ values */

static bool is_text(const msgpack_object *value, const char *text) {
  return value->type == MSGPACK_OBJECT_STR && value->via.str.size == strlen(text) &&
         memcmp(value->via.str.ptr, text, value->via.str.size) == 0;
}

/* A field of a map; nil if there is none, or if it is not a map. */
static const msgpack_object *field(const msgpack_object *map, const char *name) {
  for (uint32_t n = 0; map->type == MSGPACK_OBJECT_MAP && n < map->via.map.size; n++)
    if (is_text(&map->via.map.ptr[n].key, name)) return &map->via.map.ptr[n].val;
  return &NOTHING;
}

/* An item of a list; nil if it has fewer. */
static const msgpack_object *item(const msgpack_object *list, uint32_t n) {
  return list->type == MSGPACK_OBJECT_ARRAY && n < list->via.array.size ? &list->via.array.ptr[n] : &NOTHING;
}

/* The map in a list whose field `name` has this text; nil if there is none. */
static const msgpack_object *found(const msgpack_object *list, const char *name, const char *text) {
  for (uint32_t n = 0; list->type == MSGPACK_OBJECT_ARRAY && n < list->via.array.size; n++)
    if (is_text(field(item(list, n), name), text)) return item(list, n);
  return &NOTHING;
}

static uint64_t number(const msgpack_object *value) {
  return value->type == MSGPACK_OBJECT_POSITIVE_INTEGER ? value->via.u64 : 0;
}

/* A text for printf's %.*s: `printf("%.*s", TEXT(value))`. */
#define TEXT(value) ((value)->type == MSGPACK_OBJECT_STR ? (int)(value)->via.str.size : 1), \
                    ((value)->type == MSGPACK_OBJECT_STR ? (value)->via.str.ptr : "-")

/* ------------------------------------------------------------------ connection */

static void open_host(struct host *host, const char *endpoint, int type) {
  const int off = 0, on = 1, heartbeat_ms = HEARTBEAT_MS, silence_ms = SILENCE_MS;
  memset(host, 0, sizeof *host);
  host->context = zmq_ctx_new();
  host->socket = zmq_socket(host->context, type);
  host->body_bytes_max = 1048576;
  /* Nothing is kept for a daemon that is not there: sending fails at once, and it is known that nothing has run. */
  zmq_setsockopt(host->socket, ZMQ_IMMEDIATE, &on, sizeof on);
  zmq_setsockopt(host->socket, ZMQ_LINGER, &off, sizeof off);
  zmq_setsockopt(host->socket, ZMQ_HEARTBEAT_IVL, &heartbeat_ms, sizeof heartbeat_ms);
  zmq_setsockopt(host->socket, ZMQ_HEARTBEAT_TIMEOUT, &silence_ms, sizeof silence_ms);
  /* No ZMQ_ROUTING_ID: the daemon refuses a name that a host has chosen. */
  if (zmq_connect(host->socket, endpoint) != 0) fail("%s: %s", endpoint, zmq_strerror(zmq_errno()));
  msgpack_sbuffer_init(&host->body);
  msgpack_packer_init(&host->pack, &host->body, msgpack_sbuffer_write);
}

static void release(struct answer *answer) {
  msgpack_unpacked_destroy(&answer->parsed);
  zmq_msg_close(&answer->frame);
  free(answer);
}

static void close_host(struct host *host) {
  while (host->early != NULL) {
    struct answer *next = host->early->next;
    release(host->early);
    host->early = next;
  }
  msgpack_sbuffer_destroy(&host->body);
  zmq_close(host->socket);
  zmq_ctx_term(host->context);
}

static void put_text(struct host *host, const char *text) {
  msgpack_pack_str_with_body(&host->pack, text, strlen(text));
}

static void put(struct host *host, const char *name, const char *text) {
  put_text(host, name);
  put_text(host, text);
}

/* Begins a request that has `fields` more fields than `type` and `id`, which is returned. */
static uint64_t begin(struct host *host, const char *type, size_t fields) {
  msgpack_sbuffer_clear(&host->body);
  msgpack_pack_map(&host->pack, 2 + fields);
  put(host, "type", type);
  put_text(host, "id");
  msgpack_pack_uint64(&host->pack, ++host->id);
  return host->id;
}

/* Begins a call up to its payload, which the caller adds. Without a plugin it is a dispatch to all. */
static uint64_t begin_call(struct host *host, const char *plugin, const char *action) {
  uint64_t id = begin(host, plugin ? "invoke" : "dispatch", plugin ? 5 : 4);
  if (plugin) put(host, "plugin", plugin);
  put(host, "action", action);
  put(host, "userId", USER);
  put_text(host, "deadlineMs");
  msgpack_pack_int(&host->pack, DEADLINE_MS);
  put_text(host, "payload");
  return id;
}

/* Sends the request. False if it has not left: it is too large (EMSGSIZE), or no daemon is there (EAGAIN). */
static bool has_left(struct host *host) {
  if (host->body.size > host->body_bytes_max) {
    errno = EMSGSIZE;
    return false;
  }
  return zmq_send(host->socket, host->body.data, host->body.size, ZMQ_DONTWAIT) >= 0;
}

/* Sends the request as soon as a daemon is there. */
static void send_request(struct host *host) {
  const int64_t due = now_ms() + DEADLINE_MS;
  while (!has_left(host)) {
    if (zmq_errno() != EAGAIN || now_ms() > due) fail("not sent: %s", zmq_strerror(zmq_errno()));
    sleep_ms(10);
  }
}

/* The next message, or NULL if it cannot be read. The body is the last frame. */
static struct answer *receive(struct host *host) {
  struct answer *answer = calloc(1, sizeof *answer);
  zmq_msg_init(&answer->frame);
  msgpack_unpacked_init(&answer->parsed);
  do {
    if (zmq_msg_recv(&answer->frame, host->socket, 0) < 0) fail("receive: %s", zmq_strerror(zmq_errno()));
  } while (zmq_msg_more(&answer->frame));
  if (msgpack_unpack_next(&answer->parsed, zmq_msg_data(&answer->frame), zmq_msg_size(&answer->frame), NULL) ==
      MSGPACK_UNPACK_SUCCESS)
    return answer;
  release(answer);
  return NULL;
}

/* Waits for the answer to a request. NULL if none has come: whether its hook has run is then not known. */
static struct answer *answer_to(struct host *host, uint64_t id) {
  const int64_t due = now_ms() + DEADLINE_MS + GRACE_MS;
  for (struct answer **at = &host->early; *at != NULL; at = &(*at)->next)
    if (number(field(&(*at)->parsed.data, "id")) == id) {
      struct answer *early = *at;
      *at = early->next;
      return early;
    }
  for (int64_t left; (left = due - now_ms()) > 0;) {
    zmq_pollitem_t readable = {.socket = host->socket, .events = ZMQ_POLLIN};
    if (zmq_poll(&readable, 1, left) <= 0) continue;
    struct answer *got = receive(host);
    if (got == NULL) continue;
    const msgpack_object *message = &got->parsed.data;
    if (number(field(message, "id")) == id) return got;
    if (is_text(field(message, "type"), "error") && field(message, "id")->type == MSGPACK_OBJECT_NIL)
      fail("a request could not be read: %.*s", TEXT(field(message, "message")));
    got->next = host->early;
    host->early = got;
  }
  return NULL;
}

/* Whether a call has certainly not run, and may be answered in a moment: OVERLOADED and its like. Then the answer is
 * released. */
static bool is_for_later(struct answer *answer) {
  const msgpack_object *retryable = field(&answer->parsed.data, "retryable");
  if (retryable->type != MSGPACK_OBJECT_BOOLEAN || !retryable->via.boolean) return false;
  release(answer);
  sleep_ms(50);
  return true;
}

/* Sends the request and waits for its answer, which has to be of this type. A call that was refused and has certainly
 * not run is sent again, until its deadline. */
static struct answer *ask(struct host *host, const char *type) {
  const int64_t due = now_ms() + DEADLINE_MS;
  struct answer *answer;
  do {
    if (now_ms() > due) fail("refused until the deadline");
    send_request(host);
    answer = answer_to(host, host->id);
    if (answer == NULL) fail("no answer; whether the hook has run is not known");
  } while (is_for_later(answer));
  const msgpack_object *message = &answer->parsed.data;
  if (!is_text(field(message, "type"), type))
    fail("%.*s: %.*s", TEXT(field(message, "code")), TEXT(field(message, "message")));
  return answer;
}

/* ------------------------------------------------------------------ the ten steps */

static void put_dashboard(struct host *host) {
  msgpack_pack_map(&host->pack, 1);
  put(host, "dashboardId", "main");
}

/* The payload of onActionExecute, up to its context. */
static void put_action(struct host *host, const char *action) {
  msgpack_pack_map(&host->pack, 2);
  put(host, "action", action);
  put_text(host, "context");
}

static void hello(const char *endpoint, size_t *body_bytes_max) {
  struct host host; /* a question and its answer are what REQ is for; all other steps use DEALER */
  open_host(&host, endpoint, ZMQ_REQ);
  begin(&host, "hello", 2);
  put_text(&host, "protocol");
  msgpack_pack_array(&host.pack, 1);
  msgpack_pack_int(&host.pack, 1);
  put(&host, "client", "host.c");
  struct answer *welcome = ask(&host, "welcome");
  const msgpack_object *said = &welcome->parsed.data;
  *body_bytes_max = number(field(field(said, "limits"), "maxMessageBytes"));
  printf("1 hello: protocol %" PRIu64 ", bodies of up to %zu bytes\n", number(field(said, "protocol")),
         *body_bytes_max);
  release(welcome);
  close_host(&host);
}

static void plugins(struct host *host) {
  begin(host, "plugins", 1);
  put(host, "userId", USER);
  struct answer *answer = ask(host, "plugins");
  const msgpack_object *one = found(field(&answer->parsed.data, "plugins"), "id", "hello-world");
  printf("2 plugins: %.*s serves %.*s\n", TEXT(field(one, "id")), TEXT(item(field(one, "hooks"), 0)));
  release(answer);
}

static void dashboard(struct host *host) {
  begin_call(host, "hello-world", "onDashboardLoad");
  put_dashboard(host);
  struct answer *answer = ask(host, "result");
  const msgpack_object *widgets = field(field(&answer->parsed.data, "result"), "customWidgets");
  printf("3 dashboard: %.*s\n", TEXT(field(item(widgets, 0), "component")));
  release(answer);
}

static void data(struct host *host) {
  begin_call(host, "custom-analytics", "onDataFetch");
  msgpack_pack_map(&host->pack, 2);
  put(host, "query", "sales");
  put_text(host, "filters");
  msgpack_pack_map(&host->pack, 1);
  put_text(host, "year");
  msgpack_pack_int(&host->pack, 2026);
  struct answer *answer = ask(host, "result");
  const msgpack_object *made = field(field(&answer->parsed.data, "result"), "transformedData");
  printf("4 data: %.*s by %.*s\n", TEXT(field(made, "query")), TEXT(item(field(made, "filters"), 0)));
  release(answer);
}

static void put_values(struct host *host) {
  msgpack_packer *pack = &host->pack;
  const msgpack_timestamp moment = {.tv_sec = 1769860800, .tv_nsec = 123000000}; /* 2026-01-31T12:00:00.123Z */
  msgpack_pack_map(pack, 9);
  put(host, "text", "é😀");
  put_text(host, "bytes");
  msgpack_pack_bin_with_body(pack, "\x00\xff", 2);
  put_text(host, "moment");
  msgpack_pack_timestamp(pack, &moment);
  put_text(host, "largest");
  msgpack_pack_int64(pack, LARGEST);
  put_text(host, "smallest");
  msgpack_pack_int64(pack, -LARGEST);
  put_text(host, "float");
  msgpack_pack_double(pack, 1.5);
  put_text(host, "nothing");
  msgpack_pack_nil(pack);
  put_text(host, "yes");
  msgpack_pack_true(pack);
  put_text(host, "list");
  msgpack_pack_array(pack, 2);
  msgpack_pack_int(pack, 1);
  msgpack_pack_map(pack, 0);
}

static void action(struct host *host) {
  msgpack_unpacked sent;
  msgpack_unpacked_init(&sent);
  begin_call(host, "action-router", "onActionExecute");
  put_action(host, "echo");
  put_values(host);
  msgpack_unpack_next(&sent, host->body.data, host->body.size, NULL);
  struct answer *answer = ask(host, "result");
  const msgpack_object *echo = field(field(&answer->parsed.data, "result"), "result");
  if (!msgpack_object_equal(*field(field(&sent.data, "payload"), "context"), *echo)) fail("the values have changed");
  printf("5 action: every value came back as it left\n");
  release(answer);
  msgpack_unpacked_destroy(&sent);
}

static void login(struct host *host) {
  begin_call(host, "login-audit", "onAuthSuccess");
  msgpack_pack_map(&host->pack, 1);
  put(host, "sessionId", "s-1");
  struct answer *answer = ask(host, "result");
  if (field(&answer->parsed.data, "result")->type != MSGPACK_OBJECT_NIL) fail("a hook without a result returned one");
  printf("6 login: done\n");
  release(answer);
}

static void errors(struct host *host) {
  const char *const named[] = {"nobody", "liar"};
  printf("7 errors:");
  for (size_t n = 0; n < 2; n++) {
    begin_call(host, named[n], "onDashboardLoad");
    put_dashboard(host);
    struct answer *answer = ask(host, "error");
    const msgpack_object *error = &answer->parsed.data;
    const bool began = field(error, "started")->via.boolean;
    printf(" %.*s %s,", TEXT(field(error, "code")), began ? "after it began" : "unstarted");
    release(answer);
  }
  begin_call(host, "action-router", "onActionExecute");
  put_action(host, "echo");
  msgpack_pack_bin(&host->pack, host->body_bytes_max);
  char *zeros = calloc(1, host->body_bytes_max);
  msgpack_pack_bin_body(&host->pack, zeros, host->body_bytes_max);
  free(zeros);
  printf(" a body that is too large %s\n", has_left(host) ? "has left" : "is not sent");
}

static void cancel(struct host *host) {
  struct answer *answer;
  do {
    const uint64_t spinning = begin_call(host, "spinner", "onActionExecute");
    put_action(host, "spin");
    msgpack_pack_map(&host->pack, 0);
    send_request(host);
    sleep_ms(100);
    begin(host, "cancel", 1);
    put_text(host, "target");
    msgpack_pack_uint64(&host->pack, spinning);
    release(ask(host, "cancelled"));
    answer = answer_to(host, spinning);
    if (answer == NULL) fail("the call that was cancelled has no answer");
  } while (is_for_later(answer));
  printf("8 cancel: %.*s\n", TEXT(field(&answer->parsed.data, "code")));
  release(answer);
}

/* Sends a call whose body is exactly as large as the daemon allows, filled with a letter of its own; returns its id. */
static uint64_t begin_large(struct host *host, int n, size_t *size) {
  const uint64_t id = begin_call(host, "action-router", "onActionExecute");
  put_action(host, "echo");
  msgpack_pack_map(&host->pack, 1);
  put_text(host, "data");
  *size = host->body_bytes_max - host->body.size - 5; /* of which five begin the bytes */
  char *filled = malloc(*size);
  memset(filled, 'a' + n, *size);
  msgpack_pack_bin_with_body(&host->pack, filled, *size);
  free(filled);
  send_request(host);
  return id;
}

/* Eight of them under way together, whose answers wait for a slow reader. */
static void large(struct host *host) {
  uint64_t ids[LARGE_CALLS];
  size_t sizes[LARGE_CALLS];
  for (int n = 0; n < LARGE_CALLS; n++) ids[n] = begin_large(host, n, &sizes[n]);
  sleep_ms(1000);
  for (int n = LARGE_CALLS - 1; n >= 0; n--) { /* each answer finds its call, in whichever order it is wanted */
    struct answer *answer;
    while ((answer = answer_to(host, ids[n])) != NULL && is_for_later(answer)) ids[n] = begin_large(host, n, &sizes[n]);
    if (answer == NULL) fail("a large call has no answer");
    const msgpack_object *echo = field(field(field(&answer->parsed.data, "result"), "result"), "data");
    if (echo->type != MSGPACK_OBJECT_BIN || echo->via.bin.size != sizes[n])
      fail("call %d: %.*s", n, TEXT(field(&answer->parsed.data, "code")));
    for (uint32_t at = 0; at < echo->via.bin.size; at++)
      if (echo->via.bin.ptr[at] != 'a' + n) fail("call %d has another's answer", n);
    release(answer);
  }
  printf("9 large: %d answers of a megabyte, each to its call\n", LARGE_CALLS);
}

static void dispatch(struct host *host) {
  begin_call(host, NULL, "onDashboardLoad");
  put_dashboard(host);
  struct answer *answer = ask(host, "dispatched");
  const msgpack_object *said = &answer->parsed.data;
  const msgpack_object *widget = found(field(field(said, "result"), "customWidgets"), "id", "hello-world/hello-widget");
  const msgpack_object *failed = found(field(said, "outcomes"), "plugin", "liar");
  printf("10 dispatch: %.*s; liar failed with %.*s\n", TEXT(field(widget, "id")),
         TEXT(field(field(failed, "error"), "code")));
  release(answer);
}

/* Reads a line, asks, and tells what becomes of the question when the daemon ends, and that the next one is answered
 * once a daemon is there again. A question that was lost is not sent again. */
static void reconnect(struct host *host) {
  if (getchar() == EOF) return;
  const uint64_t lost = begin(host, "ping", 0);
  send_request(host);
  puts("asked");
  if (answer_to(host, lost) != NULL) fail("the daemon has answered");
  puts("lost: whether it ran is not known");
  begin(host, "ping", 0);
  puts(has_left(host) ? "sent to nobody" : "away: the next one is not sent");
  while (!has_left(host)) sleep_ms(50);
  struct answer *answer = answer_to(host, host->id);
  if (answer == NULL) fail("no answer after the daemon has come back");
  printf("again: %.*s\n", TEXT(field(&answer->parsed.data, "type")));
  release(answer);
}

int main(int count, char **arguments) {
  const char *endpoint = count > 1 ? arguments[1] : "ipc:///run/apex-exec/host.sock";
  struct host host;
  size_t body_bytes_max;
  setvbuf(stdout, NULL, _IOLBF, 0);
  hello(endpoint, &body_bytes_max);
  open_host(&host, endpoint, ZMQ_DEALER);
  host.body_bytes_max = body_bytes_max;
  plugins(&host);
  dashboard(&host);
  data(&host);
  action(&host);
  login(&host);
  errors(&host);
  cancel(&host);
  large(&host);
  dispatch(&host);
  if (count > 2 && strcmp(arguments[2], "reconnect") == 0) reconnect(&host);
  close_host(&host);
}
