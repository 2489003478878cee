/* Hands callbacks over to SQLite, Expat, libcurl, GLib and libc; what each must have been called with is checked. */
#include <curl/curl.h>
#include <expat.h>
#include <gio/gio.h>
#include <sqlite3.h>
#include <stdlib.h>
#include <string.h>

#define CHECK(condition) ((condition) ? (void)0 : (fprintf(stderr, "%d: not so: %s\n", __LINE__, #condition), exit(1)))

static int rows, elements, texts, notified, idled;
static GMainLoop *loop;

static int on_row(void *data, int columns, char **values, char **names)
{
    CHECK(data == &rows && columns == 1 && !strcmp(values[0], "42") && names[0]);
    rows++;
    return 0;
}

static void twice(sqlite3_context *context, int count, sqlite3_value **values)
{
    CHECK(count == 1);
    sqlite3_result_int(context, 2 * sqlite3_value_int(values[0]));
}

/* Arguments 7 and 8 of sqlite3_create_function. */
static void add_up_step(sqlite3_context *context, int count, sqlite3_value **values)
{
    int *sum = sqlite3_aggregate_context(context, sizeof *sum);
    CHECK(count == 1 && sum);
    *sum += sqlite3_value_int(values[0]);
}

static void add_up_final(sqlite3_context *context)
{
    sqlite3_result_int(context, *(int *)sqlite3_aggregate_context(context, sizeof(int)));
}

static void database(void)
{
    sqlite3 *db;
    CHECK(sqlite3_open(":memory:", &db) == SQLITE_OK);
    CHECK(sqlite3_create_function(db, "twice", 1, SQLITE_UTF8, NULL, twice, NULL, NULL) == SQLITE_OK);
    CHECK(sqlite3_create_function(db, "add_up", 1, SQLITE_UTF8, NULL, NULL, add_up_step, add_up_final) == SQLITE_OK);
    CHECK(sqlite3_exec(db, "SELECT twice(21)", on_row, &rows, NULL) == SQLITE_OK);
    CHECK(sqlite3_exec(db, "SELECT add_up(c) FROM (SELECT 40 AS c UNION SELECT 2)", on_row, &rows, NULL) == SQLITE_OK);
    CHECK(rows == 2);
    sqlite3_close(db);
}

static void on_start(void *data, const XML_Char *name, const XML_Char **attributes)
{
    CHECK(data == &elements && name && attributes);
    elements++;
}

static void on_end(void *data, const XML_Char *name)
{
    CHECK(data == &elements && name);
    elements--;
}

static void on_text(void *data, const XML_Char *text, int length)
{
    CHECK(data == &elements && text);
    texts += length;
}

static void document(void)
{
    static const char text[] = "<a><b>text</b></a>";
    XML_Parser parser = XML_ParserCreate(NULL);
    XML_SetUserData(parser, &elements);
    XML_SetElementHandler(parser, on_start, on_end);
    XML_SetCharacterDataHandler(parser, on_text);
    CHECK(XML_Parse(parser, text, sizeof text - 1, 1) == XML_STATUS_OK && elements == 0 && texts == 4);
    XML_ParserFree(parser);
}

/* The data is a function's address, too: no option says that it is to be called. */
static size_t on_data(char *bytes, size_t size, size_t count, void *data)
{
    CHECK(bytes && data == (void *)on_data);
    return size * count;
}

static void transfer(const char *url)
{
    CURL *curl = curl_easy_init();
    CHECK(curl_easy_setopt(curl, CURLOPT_URL, url) == CURLE_OK);
    CHECK(curl_easy_setopt(curl, CURLOPT_WRITEFUNCTION, on_data) == CURLE_OK);
    CHECK(curl_easy_setopt(curl, CURLOPT_WRITEDATA, (void *)on_data) == CURLE_OK);
    CHECK(curl_easy_perform(curl) == CURLE_OK);
    curl_easy_cleanup(curl);
}

static void on_notify(GObject *object, GParamSpec *spec, gpointer data)
{
    CHECK(object && spec && data == &notified);
    notified++;
}

static gboolean on_idle(gpointer data)
{
    CHECK(data == &idled);
    idled++;
    g_main_loop_quit(loop);
    return G_SOURCE_REMOVE;
}

static void objects(void)
{
    GSimpleAction *action = g_simple_action_new("action", NULL);
    g_signal_connect(action, "notify::enabled", G_CALLBACK(on_notify), &notified);
    g_simple_action_set_enabled(action, FALSE);
    /* GLib finds the handler by the function that it was connected with. */
    CHECK(g_signal_handlers_disconnect_by_func(action, G_CALLBACK(on_notify), &notified) == 1);
    g_simple_action_set_enabled(action, TRUE);
    CHECK(notified == 1);
    g_object_unref(action);
    loop = g_main_loop_new(NULL, FALSE);
    g_idle_add(on_idle, &idled);
    g_main_loop_run(loop);
    g_main_loop_unref(loop);
    CHECK(idled == 1);
}

static int by_value(const void *a, const void *b)
{
    return *(const int *)a - *(const int *)b;
}

int main(int argc, char **argv)
{
    int values[] = {3, 1, 2};
    CHECK(argc == 2);
    qsort(values, 3, sizeof *values, by_value);
    CHECK(values[0] == 1 && values[2] == 3);
    database();
    document();
    transfer(argv[1]);
    objects();
    return 0;
}
