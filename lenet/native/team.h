// Work is taken, not given: each thread takes the next task that nobody has begun. The caller never
// waits for a thread that is put aside in the middle of a task: it computes the task again.
//
// So a task may run twice, even at the same time. It must compute the same bits each time, from data
// that do not change while the job runs; work in memory of its thread; and write nothing but its
// results, to memory of the job. A thread that comes back late still reads and writes this memory
// after `run` has returned: see `late_jobs`.
#pragma once
#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <new>
#include <thread>
#include <vector>

#include "vector.h"

#ifdef _OPENMP
#include <omp.h>
#endif

class Team {
    using Clock = std::chrono::steady_clock;
    // How long a helper looks for the next job before it sleeps: about from one step to the next.
    static constexpr std::chrono::microseconds PATIENCE{20};

    struct Task {
        std::atomic<bool> is_done{false};
        std::atomic<Clock::rep> begun{0};
    };
    struct Job {
        std::atomic<int64_t> left{0};  // tasks that nobody has begun; 0 while `open` fills the rest
        std::atomic<int> places{0};    // for more helpers
        std::atomic<int> inside{0};    // helpers that may look at it
        std::function<void(int64_t)> task;
        std::vector<Task> tasks;

        // The number of a task for whoever asks, or one below 0.
        int64_t take() { return left.load() > 0 ? left.fetch_sub(1) - 1 : -1; }
    };

    static constexpr int MOST_HELPERS = 62;
    Job jobs[MOST_HELPERS + 1];  // one more than there can be late helpers
    std::atomic<Job*> current{nullptr};
    std::atomic<uint64_t> opened{0};  // how many jobs
    std::atomic<int> sleeping{0};
    int helpers = 0;
    std::mutex calling, waking;
    std::condition_variable wake;

    static Clock::rep now() { return Clock::now().time_since_epoch().count(); }

    static void pause() {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#elif defined(__aarch64__)
        asm volatile("yield");
#endif
    }

    void help() {
        uint64_t seen = 0;
        for (;;) {
            const auto end = Clock::now() + PATIENCE;
            while (opened.load() == seen && Clock::now() < end) pause();
            if (opened.load() == seen) {
                std::unique_lock<std::mutex> lock(waking);
                sleeping++;
                wake.wait(lock, [&] { return opened.load() != seen; });
                sleeping--;
            }
            seen = opened.load();
            Job& job = *current.load();
            job.inside++;
            if (job.places-- > 0)
                for (int64_t i; (i = job.take()) >= 0;) {
                    job.tasks[i].begun = now();
                    job.task(i);
                    job.tasks[i].is_done = true;
                }
            job.inside--;
        }
    }

    // Where torch's runtime is OpenMP, the helpers are threads of it. So it knows that there are more
    // threads than cores, and its own then sleep soon after their work, instead of spinning on the
    // core where a helper could compute.
    void start(int count) {
        const int more = count - helpers;
        helpers = count;
        std::thread([=] {
#ifdef _OPENMP
#pragma omp parallel num_threads(more + 1)
            if (omp_get_thread_num()) help();
#else
            for (int i = 1; i < more; i++) std::thread(&Team::help, this).detach();
            help();
#endif
        }).detach();
    }

    // The caller takes the first task, the last of all: `left` does not count it.
    Job& open(int64_t count, int places, std::function<void(int64_t)> task) {
        Job& job = *std::find_if(std::begin(jobs), std::end(jobs),
                                 [](const Job& j) { return j.inside.load() == 0; });
        if (int64_t(job.tasks.size()) < count) job.tasks = std::vector<Task>(count);
        for (int64_t i = 0; i < count; i++) job.tasks[i].is_done = false, job.tasks[i].begun = now();
        job.task = std::move(task);
        job.places = places;
        job.left = count - 1;
        current = &job;
        opened++;
        if (sleeping.load()) {
            { std::lock_guard<std::mutex> lock(waking); }
            wake.notify_all();
        }
        return job;
    }

  public:
    // Calls task(0) ... task(count - 1), on this thread and up to `threads` - 1 helpers. Returns 0,
    // or the bit of this job in `late_jobs` if a helper still computes a task of it.
    int64_t run(int64_t count, int threads, std::function<void(int64_t)> task) {
        std::unique_lock<std::mutex> lock(calling, std::defer_lock);
        if (threads == 1 || count == 1 || !lock.try_lock()) {  // another caller has the helpers
            for (int64_t i = 0; i < count; i++) task(i);
            return 0;
        }
        const int places = std::min(threads - 1, MOST_HELPERS);
        if (helpers < places) start(places);
        Job& job = open(count, places, std::move(task));
        Clock::rep quickest = INT64_MAX;
        for (int64_t i = count - 1; i >= 0; i = job.take()) {
            const Clock::rep begun = now();
            job.task(i);
            job.tasks[i].is_done = true;
            quickest = std::min(quickest, now() - begun);
        }
        bool is_late = false;
        for (int64_t i = 0; i < count; i++) {
            Task& task = job.tasks[i];
            while (!task.is_done && now() - task.begun < 2 * quickest) pause();
            if (task.is_done) continue;
            job.task(i);  // again: its helper is put aside
            is_late |= !task.is_done;
        }
        return is_late ? int64_t(1) << (&job - jobs) : 0;
    }

    // A bit for each job that a helper may still be in.
    int64_t late_jobs() {
        int64_t bits = 0;
        for (const Job& job : jobs)
            if (job.inside.load()) bits |= int64_t(1) << (&job - jobs);
        return bits;
    }
};

// Never destroyed, because its helpers run until the process ends.
inline Team& team = *new Team;

// Memory of this thread's own: at least so many vectors, with whatever is in them.
inline vec* own_memory(int64_t vectors) {
    struct Own {
        vec* at = nullptr;
        int64_t size = 0;
        ~Own() { ::operator delete(at, std::align_val_t(VECTOR_BYTES)); }
    };
    thread_local Own own;
    if (own.size < vectors) {
        ::operator delete(own.at, std::align_val_t(VECTOR_BYTES));
        own.at = static_cast<vec*>(
            ::operator new(vectors * sizeof(vec), std::align_val_t(VECTOR_BYTES)));
        own.size = vectors;
    }
    return own.at;
}
