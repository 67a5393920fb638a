// A fake of the kernel driver i915 for Mesa's ANV, to be preloaded: it answers just enough for a device to open, so that kernels can be
// compiled for Intel GPUs on any machine. Nothing executes. FAKE_PCI_ID is the GPU (0x9a49: Iris Xe; 0x56a0: Arc A770), FAKE_VRAM gives it
// memory of its own, FAKE_SL and FAKE_SS are its slices and subslices. (Debian has such fakes for the other vendors: mesa-drm-shim.)
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <stdarg.h>
#include <errno.h>
#include <fcntl.h>
#include <dlfcn.h>
#include <unistd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/ioctl.h>
#include <xf86drm.h>
#include <drm.h>
#include <i915_drm.h>
#define NODE "/dev/dri/renderD128"
static int fds[64], nfds;
static unsigned pci(void) {
    char *e = getenv("FAKE_PCI_ID");
    return e ? strtoul(e, 0, 0) : 0x9a49;
}
static int mine(int fd) {
    for (int i = 0; i < nfds; i++)
        if (fds[i] == fd)
            return 1;
    return 0;
}
#define REAL(n)                                                                                                        \
    ({                                                                                                                 \
        static __typeof__(&n) p;                                                                                       \
        if (!p)                                                                                                        \
            p = dlsym(RTLD_NEXT, #n);                                                                                  \
        p;                                                                                                             \
    })
static int fake_open(void) {
    int fd = memfd_create("i915", 0);
    if (nfds < 64)
        fds[nfds++] = fd;
    return fd;
}
int open(const char *p, int f, ...) {
    va_list a;
    va_start(a, f);
    int m = va_arg(a, int);
    va_end(a);
    if (!strcmp(p, NODE))
        return fake_open();
    return REAL(open)(p, f, m);
}
int open64(const char *p, int f, ...) {
    va_list a;
    va_start(a, f);
    int m = va_arg(a, int);
    va_end(a);
    if (!strcmp(p, NODE))
        return fake_open();
    return REAL(open64)(p, f, m);
}
int __open64_2(const char *p, int f) {
    return open64(p, f, 0);
}
int close(int fd) {
    for (int i = 0; i < nfds; i++)
        if (fds[i] == fd)
            fds[i] = -1;
    return REAL(close)(fd);
}
int fcntl(int fd, int c, ...) {
    va_list a;
    va_start(a, c);
    void *x = va_arg(a, void *);
    va_end(a);
    int r = REAL(fcntl)(fd, c, x);
    if (mine(fd) && (c == F_DUPFD_CLOEXEC || c == F_DUPFD) && nfds < 64)
        fds[nfds++] = r;
    return r;
}
int fcntl64(int fd, int c, ...) {
    va_list a;
    va_start(a, c);
    void *x = va_arg(a, void *);
    va_end(a);
    int r = REAL(fcntl)(fd, c, x);
    if (mine(fd) && (c == F_DUPFD_CLOEXEC || c == F_DUPFD) && nfds < 64)
        fds[nfds++] = r;
    return r;
}
static int st_(const char *p, struct stat *s) {
    memset(s, 0, sizeof *s);
    s->st_rdev = makedev(226, 128);
    s->st_mode = S_IFCHR;
    return 0;
}
int stat(const char *p, struct stat *s) {
    if (!strncmp(p, "/dev/dri/", 9))
        return st_(p, s);
    return REAL(stat)(p, s);
}
int stat64(const char *p, struct stat64 *s) {
    if (!strncmp(p, "/dev/dri/", 9))
        return st_(p, (struct stat *)s);
    return REAL(stat64)(p, s);
}
int fstat(int f, struct stat *s) {
    if (mine(f))
        return st_(0, s);
    return REAL(fstat)(f, s);
}
int fstat64(int f, struct stat64 *s) {
    if (mine(f))
        return st_(0, (struct stat *)s);
    return REAL(fstat64)(f, s);
}
static drmPciBusInfo bus = {0, 0, 2, 0};
static drmPciDeviceInfo dev;
static char *nodes[3] = {"/dev/dri/card0", 0, NODE};
static drmDevice D;
int drmGetDevices2(uint32_t fl, drmDevicePtr d[], int n) {
    dev.vendor_id = 0x8086;
    dev.device_id = pci();
    D.nodes = nodes;
    D.available_nodes = 1 << DRM_NODE_RENDER;
    D.bustype = DRM_BUS_PCI;
    D.businfo.pci = &bus;
    D.deviceinfo.pci = &dev;
    if (d && n > 0)
        d[0] = &D;
    return 1;
}
int drmGetDevice2(int fd, uint32_t fl, drmDevicePtr *d) {
    drmDevicePtr x[1];
    drmGetDevices2(0, x, 1);
    *d = x[0];
    return 0;
}
void drmFreeDevices(drmDevicePtr d[], int n) {
}
void drmFreeDevice(drmDevicePtr *d) {
}
static unsigned long long mapoff = 1ull << 32;
static unsigned handle = 1;
static unsigned long long sizes[65536];
static int topo(struct drm_i915_query_item *q) {
    int sl = 1, ss = 6, eu = 16;
    if (getenv("FAKE_SS"))
        ss = atoi(getenv("FAKE_SS"));
    if (getenv("FAKE_SL"))
        sl = atoi(getenv("FAKE_SL"));
    int so = 1, sst = (ss + 7) / 8, eo = so + sl * sst, es = (eu + 7) / 8;
    int len = sizeof(struct drm_i915_query_topology_info) + eo + sl * ss * es;
    if (!q->length) {
        q->length = len;
        return 0;
    }
    struct drm_i915_query_topology_info *t = (void *)q->data_ptr;
    memset(t, 0, len);
    t->max_slices = sl;
    t->max_subslices = ss;
    t->max_eus_per_subslice = eu;
    t->subslice_offset = so;
    t->subslice_stride = sst;
    t->eu_offset = eo;
    t->eu_stride = es;
    t->data[0] = (1 << sl) - 1;
    for (int s = 0; s < sl; s++)
        for (int i = 0; i < ss; i++) {
            t->data[so + s * sst + i / 8] |= 1 << (i % 8);
            for (int k = 0; k < es; k++)
                t->data[eo + (s * ss + i) * es + k] = 0xff;
        }
    q->length = len;
    return 0;
}
int ioctl(int fd, unsigned long r, ...) {
    va_list a;
    va_start(a, r);
    void *p = va_arg(a, void *);
    va_end(a);
    if (!mine(fd))
        return REAL(ioctl)(fd, r, p);
    unsigned nr = _IOC_NR(r);
    if (nr < 0x40 || nr >= 0xa0) {
        if (nr == _IOC_NR(DRM_IOCTL_VERSION)) {
            struct drm_version *v = p;
            v->version_major = 1;
            v->version_minor = 6;
            if (v->name && v->name_len >= 4)
                memcpy(v->name, "i915", 4);
            v->name_len = 4;
            if (v->date && v->date_len)
                v->date[0] = 0;
            v->date_len = 0;
            if (v->desc && v->desc_len)
                v->desc[0] = 0;
            v->desc_len = 0;
            return 0;
        }
        if (nr == _IOC_NR(DRM_IOCTL_GET_CAP)) {
            struct drm_get_cap *c = p;
            c->value = 1;
            return 0;
        }
        if (nr == _IOC_NR(DRM_IOCTL_SYNCOBJ_CREATE)) {
            ((struct drm_syncobj_create *)p)->handle = handle++;
            return 0;
        }
        if (nr == _IOC_NR(DRM_IOCTL_SYNCOBJ_HANDLE_TO_FD)) {
            ((struct drm_syncobj_handle *)p)->fd = memfd_create("s", 0);
            return 0;
        }
        if (nr == _IOC_NR(DRM_IOCTL_SYNCOBJ_FD_TO_HANDLE)) {
            ((struct drm_syncobj_handle *)p)->handle = handle++;
            return 0;
        }
        return 0;
    }
    switch (nr - 0x40) {
    case DRM_I915_GETPARAM: {
        drm_i915_getparam_t *g = p;
        int v = 1;
        switch (g->param) {
        case I915_PARAM_CHIPSET_ID:
            v = pci();
            break;
        case I915_PARAM_REVISION:
            v = 0;
            break;
        case I915_PARAM_HAS_ALIASING_PPGTT:
            v = 2;
            break;
        case I915_PARAM_CS_TIMESTAMP_FREQUENCY:
            v = 19200000;
            break;
        case I915_PARAM_MMAP_GTT_VERSION:
            v = 4;
            break;
        case I915_PARAM_MMAP_VERSION:
            v = 1;
            break;
        case I915_PARAM_SUBSLICE_TOTAL:
            v = 6;
            break;
        case I915_PARAM_EU_TOTAL:
            v = 96;
            break;
        case I915_PARAM_PERF_REVISION:
            v = 3;
            break;
        case I915_PARAM_NUM_FENCES_AVAIL:
            v = 8;
            break;
        case 58:
            errno = ENODEV;
            return -1;
        case I915_PARAM_HAS_USERPTR_PROBE:
            v = 1;
            break;
        }
        *g->value = v;
        return 0;
    }
    case DRM_I915_QUERY: {
        struct drm_i915_query *q = p;
        struct drm_i915_query_item *it = (void *)q->items_ptr;
        for (unsigned i = 0; i < q->num_items; i++)
            switch (it[i].query_id) {
            case DRM_I915_QUERY_TOPOLOGY_INFO:
            case DRM_I915_QUERY_GEOMETRY_SUBSLICES:
                topo(it + i);
                break;
            case DRM_I915_QUERY_ENGINE_INFO: {
                struct drm_i915_query_engine_info *e = (void *)it[i].data_ptr;
                int len = sizeof *e + 2 * sizeof e->engines[0];
                if (!it[i].length) {
                    it[i].length = len;
                    break;
                }
                memset(e, 0, len);
                e->num_engines = 2;
                e->engines[0].engine.engine_class = I915_ENGINE_CLASS_RENDER;
                e->engines[1].engine.engine_class = I915_ENGINE_CLASS_COPY;
                break;
            }
            case DRM_I915_QUERY_MEMORY_REGIONS: {
                int n = getenv("FAKE_VRAM") ? 2 : 1;
                struct drm_i915_query_memory_regions *m = (void *)it[i].data_ptr;
                int len = sizeof *m + n * sizeof m->regions[0];
                if (!it[i].length) {
                    it[i].length = len;
                    break;
                }
                memset(m, 0, len);
                m->num_regions = n;
                m->regions[0].probed_size = 16ull << 30;
                m->regions[0].unallocated_size = -1ll;
                if (n > 1) {
                    m->regions[1].region.memory_class = I915_MEMORY_CLASS_DEVICE;
                    m->regions[1].probed_size = 16ull << 30;
                    m->regions[1].probed_cpu_visible_size = 16ull << 30;
                    m->regions[1].unallocated_size = -1ll;
                }
                break;
            }
            default:
                it[i].length = -EINVAL;
            }
        return 0;
    }
    case DRM_I915_GEM_CREATE: {
        struct drm_i915_gem_create *c = p;
        c->handle = handle++;
        sizes[c->handle & 65535] = c->size;
        return 0;
    }
    case DRM_I915_GEM_CREATE_EXT: {
        struct drm_i915_gem_create_ext *c = p;
        c->handle = handle++;
        return 0;
    }
    case DRM_I915_GEM_MMAP_GTT: {
        struct drm_i915_gem_mmap_offset *o = p;
        o->offset = mapoff;
        mapoff += 1ull << 30;
        return 0;
    }
    case DRM_I915_GEM_USERPTR: {
        ((struct drm_i915_gem_userptr *)p)->handle = handle++;
        return 0;
    }
    case DRM_I915_GEM_CONTEXT_CREATE: {
        ((struct drm_i915_gem_context_create *)p)->ctx_id = handle++;
        return 0;
    }
    case DRM_I915_GEM_CONTEXT_GETPARAM: {
        struct drm_i915_gem_context_param *c = p;
        c->value = c->param == I915_CONTEXT_PARAM_GTT_SIZE ? 1ull << 48 : c->param == I915_CONTEXT_PARAM_VM ? 1 : 0;
        return 0;
    }
    case DRM_I915_GEM_VM_CREATE: {
        ((struct drm_i915_gem_vm_control *)p)->vm_id = handle++;
        return 0;
    }
    case DRM_I915_GEM_GET_APERTURE: {
        struct drm_i915_gem_get_aperture *c = p;
        c->aper_size = c->aper_available_size = 1ull << 48;
        return 0;
    }
    case DRM_I915_REG_READ: {
        ((struct drm_i915_reg_read *)p)->val = 0;
        return 0;
    }
    default:
        return 0;
    }
}
void *mmap64(void *a, size_t l, int pr, int fl, int fd, off64_t o) {
    if (mine(fd))
        return REAL(mmap64)(a, l, pr, MAP_PRIVATE | MAP_ANONYMOUS | (fl & MAP_FIXED), -1, 0);
    return REAL(mmap64)(a, l, pr, fl, fd, o);
}
void *mmap(void *a, size_t l, int pr, int fl, int fd, off_t o) {
    if (mine(fd))
        return REAL(mmap)(a, l, pr, MAP_PRIVATE | MAP_ANONYMOUS | (fl & MAP_FIXED), -1, 0);
    return REAL(mmap)(a, l, pr, fl, fd, o);
}
