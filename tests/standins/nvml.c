/* A libnvidia-ml.so.1 for machines without GPUs, loaded by the real Python bindings.
 *
 * The file named by NVML_DEVICES has a line for each device, read at nvmlInit:
 *     GPU-<uuid> <bytes in all> <bytes used> <pid,pid or -> <name>
 * A line that begins with MIG- is an instance of the GPU above it.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, INVALID = 2, UNSUPPORTED = 3, NOT_FOUND = 6, TOO_SMALL = 7, NO_DRIVER = 9 };
enum { MOST = 32 };

struct device {
  char uuid[80], name[80];
  unsigned long long total, used;
  unsigned pids[8], pid_count;
  int parent; /* -1: a GPU itself */
};

struct process {
  unsigned pid;
  unsigned long long used;
  unsigned gpu_instance, compute_instance;
};

static struct device devices[MOST];
static int count;

static void read_pids(struct device *device, char *text) {
  device->pid_count = 0;
  for (char *word = strtok(text, ","); word && strcmp(word, "-"); word = strtok(NULL, ","))
    device->pids[device->pid_count++] = (unsigned)atoi(word);
}

int nvmlInitWithFlags(unsigned flags) {
  (void)flags;
  const char *path = getenv("NVML_DEVICES");
  FILE *file = path ? fopen(path, "r") : NULL;
  if (!file) return NO_DRIVER;
  char line[400], pids[100];
  int parent = -1;
  for (count = 0; count < MOST && fgets(line, sizeof line, file);) {
    struct device *device = &devices[count];
    if (sscanf(line, "%79s %llu %llu %99s %79[^\n]", device->uuid, &device->total, &device->used, pids, device->name) != 5)
      continue;
    read_pids(device, pids);
    int is_instance = !strncmp(device->uuid, "MIG-", 4);
    device->parent = is_instance ? parent : -1;
    if (!is_instance) parent = count;
    count++;
  }
  fclose(file);
  return OK;
}

int nvmlShutdown(void) { return OK; }

const char *nvmlErrorString(int code) { return code == NO_DRIVER ? "Driver Not Loaded" : "an error"; }

static int nth(int parent, unsigned index, struct device **found) {
  for (int i = 0; i < count; i++)
    if (devices[i].parent == parent && index-- == 0) return *found = &devices[i], OK;
  return NOT_FOUND;
}

int nvmlDeviceGetCount_v2(unsigned *gpus) {
  *gpus = 0;
  for (int i = 0; i < count; i++) *gpus += devices[i].parent < 0;
  return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **device) {
  return nth(-1, index, device) == OK ? OK : INVALID;
}

int nvmlDeviceGetHandleByUUID(const char *uuid, struct device **device) {
  for (int i = 0; i < count; i++)
    if (!strcmp(devices[i].uuid, uuid)) return *device = &devices[i], OK;
  return NOT_FOUND;
}

static int copy(char *to, unsigned length, const char *text) {
  if (strlen(text) >= length) return TOO_SMALL;
  strcpy(to, text);
  return OK;
}

int nvmlDeviceGetName(struct device *device, char *name, unsigned length) { return copy(name, length, device->name); }
int nvmlDeviceGetUUID(struct device *device, char *uuid, unsigned length) { return copy(uuid, length, device->uuid); }

int nvmlDeviceGetMemoryInfo(struct device *device, unsigned long long memory[3]) {
  memory[0] = device->total, memory[1] = device->total - device->used, memory[2] = device->used;
  return OK;
}

static unsigned instances_of(struct device *device) {
  unsigned instances = 0;
  for (int i = 0; i < count; i++) instances += devices[i].parent == device - devices;
  return instances;
}

int nvmlDeviceGetMigMode(struct device *device, unsigned *now, unsigned *pending) {
  *now = *pending = instances_of(device) > 0;
  return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(struct device *device, unsigned *most) {
  (void)device;
  *most = 7;
  return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(struct device *device, unsigned index, struct device **instance) {
  return nth((int)(device - devices), index, instance);
}

int nvmlDeviceGetComputeRunningProcesses_v3(struct device *device, unsigned *processes, struct process *found) {
  unsigned room = *processes;
  *processes = device->pid_count;
  if (room < device->pid_count) return TOO_SMALL;
  for (unsigned i = 0; i < device->pid_count; i++)
    found[i] = (struct process){device->pids[i], device->used / device->pid_count, 0, 0};
  return OK;
}

int nvmlDeviceGetUtilizationRates(struct device *device, unsigned rates[2]) {
  (void)device;
  rates[0] = 50, rates[1] = 25;
  return OK;
}

int nvmlDeviceGetPowerUsage(struct device *device, unsigned *milliwatts) {
  (void)device;
  *milliwatts = 250000;
  return OK;
}
