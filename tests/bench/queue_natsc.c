/* queue_natsc.c - the yardstick of the queue benchmark: nats.c takes messages out of a work queue as its own example
 * (js-sub.c) does, and acknowledges each.
 *
 *     queue_natsc pull|push URL memory|file COUNT
 *
 * Fills a stream with COUNT messages of 100 bytes, takes them, and waits until the server has none left. Prints
 * rate=…, acknowledged messages a second, and cpu_us=… of this process for each.
 *
 * SPDX-License-Identifier: MIT */
#define _GNU_SOURCE
#include <nats/nats.h>

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <time.h>

#define SIZE 100
#define FETCH 500 /* the server delivers 1000 that are not acknowledged */
#define WAIT_MS 5000
#define ASYNC_PENDING 4096

static const char stream[] = "BENCH";
static const char subject[] = "bench.work";

static void check(natsStatus status, const char *what)
{
    if (status == NATS_OK)
        return;
    fprintf(stderr, "queue_natsc: %s: %s\n", what, natsStatus_GetText(status));
    nats_PrintLastErrorStack(stderr);
    exit(1);
}

static double now_s(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

static double cpu_s(void)
{
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    return (double)(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
            (double)(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
}

static uint64_t left(jsCtx *js)
{
    jsStreamInfo *info = NULL;
    check(js_GetStreamInfo(&info, js, stream, NULL, NULL), "stream");
    uint64_t count = info->State.Msgs;
    jsStreamInfo_Destroy(info);
    return count;
}

static void fill(jsCtx *js, int64_t count, int is_file)
{
    jsStreamConfig config;
    jsPubOptions options;
    char data[SIZE];
    const char *subjects[] = {subject};
    check(jsStreamConfig_Init(&config), "config");
    config.Name = stream;
    config.Subjects = subjects;
    config.SubjectsLen = 1;
    config.Retention = js_WorkQueuePolicy;
    config.Storage = is_file ? js_FileStorage : js_MemoryStorage;
    check(js_AddStream(NULL, js, &config, NULL, NULL), "add stream");
    memset(data, 'x', sizeof data);
    for (int64_t i = 0; i < count; i++)
        check(js_PublishAsync(js, subject, data, sizeof data, NULL), "publish");
    check(jsPubOptions_Init(&options), "options");
    options.MaxWait = 60000;
    check(js_PublishAsyncComplete(js, &options), "publish");
}

static void pull(jsCtx *js, int64_t count)
{
    natsSubscription *sub = NULL;
    natsMsgList list;
    check(js_PullSubscribe(&sub, js, subject, "worker", NULL, NULL, NULL), "subscribe");
    for (int64_t taken = 0; taken < count;) {
        check(natsSubscription_Fetch(&list, sub, FETCH, WAIT_MS, NULL), "fetch");
        for (int i = 0; i < list.Count; i++)
            check(natsMsg_Ack(list.Msgs[i], NULL), "ack");
        taken += list.Count;
        natsMsgList_Destroy(&list);
    }
}

static void push(jsCtx *js, int64_t count)
{
    natsSubscription *sub = NULL;
    jsSubOptions options;
    natsMsg *message;
    check(jsSubOptions_Init(&options), "options");
    options.ManualAck = true;
    options.Config.Durable = "worker";
    options.Config.MaxAckPending = 2 * FETCH;
    check(js_SubscribeSync(&sub, js, subject, NULL, &options, NULL), "subscribe");
    check(natsSubscription_SetPendingLimits(sub, -1, -1), "limits");
    for (int64_t taken = 0; taken < count; taken++) {
        check(natsSubscription_NextMsg(&message, sub, WAIT_MS), "next");
        check(natsMsg_Ack(message, NULL), "ack");
        natsMsg_Destroy(message);
    }
}

int main(int argc, char **argv)
{
    natsConnection *connection = NULL;
    jsCtx *js = NULL;
    jsOptions options;
    if (argc != 5) {
        fprintf(stderr, "usage: queue_natsc pull|push URL memory|file COUNT\n");
        return 2;
    }
    int64_t count = strtoll(argv[4], NULL, 10);
    check(natsConnection_ConnectTo(&connection, argv[2]), "connect");
    check(jsOptions_Init(&options), "options");
    options.PublishAsync.MaxPending = ASYNC_PENDING;
    check(natsConnection_JetStream(&js, connection, &options), "jetstream");
    fill(js, count, strcmp(argv[3], "file") == 0);
    double from_s = now_s(), cpu_from_s = cpu_s();
    if (strcmp(argv[1], "pull") == 0)
        pull(js, count);
    else
        push(js, count);
    check(natsConnection_Flush(connection), "flush");
    double cpu_took_s = cpu_s() - cpu_from_s;
    while (left(js) > 0)
        nats_Sleep(1);
    double took_s = now_s() - from_s;
    printf("rate=%.0f cpu_us=%.3f total=%" PRId64 "\n", (double)count / took_s,
            cpu_took_s / (double)count * 1e6, count);
    return 0;
}
