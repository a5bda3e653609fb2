/* calls MODEL DAMAGED PUBLIC OTHER: every call of the C interface that must fail, and what must come of it.
 * MODEL has one float32 input of (1, 784) and is signed by the owner of PUBLIC, not by that of OTHER. */
#include <sparsec.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures = 0;

static void expect(const char *what, sparsec_status found, sparsec_status wanted, const char *text) {
  const int good = found == wanted && (wanted == SPARSEC_OK || strstr(sparsec_error(), text) != NULL);
  if (!good) {
    printf("%s: status %d, wanted %d with '%s'; %s\n", what, found, wanted, text, sparsec_error());
    ++failures;
  }
}

static void check_opening(char **arguments) {
  sparsec_session *session = NULL;
  sparsec_options options = SPARSEC_OPTIONS;
  expect("missing file", sparsec_open("/nowhere/model", NULL, &session), SPARSEC_ERROR_FILE, "/nowhere/model");
  expect("a folder", sparsec_open("/", NULL, &session), SPARSEC_ERROR_FILE, "not a regular file");
  expect("no path", sparsec_open(NULL, NULL, &session), SPARSEC_ERROR_ARGUMENT, "path is NULL");
  expect("damaged", sparsec_open(arguments[2], NULL, &session), SPARSEC_ERROR_MODEL, "is damaged");
  expect("another file", sparsec_open(arguments[3], NULL, &session), SPARSEC_ERROR_MODEL, "not a model");
  expect("memory", sparsec_open_memory("SPARSECB", 8, NULL, &session), SPARSEC_ERROR_MODEL, "cut off");
  options.threads = 1000;
  expect("threads", sparsec_open(arguments[1], &options, &session), SPARSEC_ERROR_ARGUMENT, "threads is 1000");
  options.threads = 0;
  options.public_key = arguments[4];
  expect("other's key", sparsec_open(arguments[1], &options, &session), SPARSEC_ERROR_SIGNATURE, "not what the owner");
  options.signature = "/nowhere/model.sig";
  expect("no signature", sparsec_open(arguments[1], &options, &session), SPARSEC_ERROR_SIGNATURE, "/nowhere/model.sig");
  options.size = 3;
  expect("other options", sparsec_open(arguments[1], &options, &session), SPARSEC_ERROR_ARGUMENT, "another size");
}

static void check_running(sparsec_session *session) {
  static float x[784 * 2], dense[10], strided[10];
  const int64_t right[] = {1, 784}, wrong[] = {784, 1};
  sparsec_result *result = NULL;
  for (int i = 0; i < 784; ++i) x[i] = (float)(i % 17) / 17;
  sparsec_tensor input = sparsec_tensor_of(x, SPARSEC_FLOAT32, 2, wrong);
  expect("shape", sparsec_run(session, &input, 1, &result), SPARSEC_ERROR_INPUT, "takes float32 (1, 784); given: float32 (784, 1)");
  input = sparsec_tensor_of(x, SPARSEC_INT32, 2, right);
  expect("type", sparsec_run(session, &input, 1, &result), SPARSEC_ERROR_INPUT, "given: int32");
  input.type = 99;
  expect("no type", sparsec_run(session, &input, 1, &result), SPARSEC_ERROR_ARGUMENT, "unknown element type");
  input = sparsec_tensor_of(NULL, SPARSEC_FLOAT32, 2, right);
  expect("no data", sparsec_run(session, &input, 1, &result), SPARSEC_ERROR_ARGUMENT, "no data");
  input.data = x;
  expect("count", sparsec_run(session, &input, 0, &result), SPARSEC_ERROR_INPUT, "takes 1 inputs");
  expect("right", sparsec_run(session, &input, 1, &result), SPARSEC_OK, "");
  const sparsec_tensor *output = sparsec_result_output(result, 0);
  expect("copy", sparsec_copy(output, dense, sizeof dense), SPARSEC_OK, "");
  expect("size", sparsec_copy(output, dense, 3), SPARSEC_ERROR_ARGUMENT, "has 40 bytes");
  sparsec_result_free(result);
  for (int i = 783; i >= 0; --i) x[2 * i] = x[i];
  input.strides[1] = 2;
  expect("strides", sparsec_run(session, &input, 1, &result), SPARSEC_OK, "");
  expect("copy", sparsec_copy(sparsec_result_output(result, 0), strided, sizeof strided), SPARSEC_OK, "");
  if (memcmp(dense, strided, sizeof dense) != 0) ++failures, printf("an input with strides gives another output\n");
  if (sparsec_result_output(result, 1) != NULL) ++failures, printf("there is an output too many\n");
  sparsec_result_free(result);
}

int main(int count, char **arguments) {
  sparsec_session *session = NULL;
  sparsec_options options = SPARSEC_OPTIONS;
  if (count != 5) return 2;
  check_opening(arguments);
  options.public_key = arguments[3];
  expect("signed", sparsec_open(arguments[1], &options, &session), SPARSEC_OK, "");
  if (session == NULL) return 1;
  check_running(session);
  sparsec_close(session);
  return failures > 0;
}
