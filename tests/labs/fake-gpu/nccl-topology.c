// NCCL_TOPO_DUMP_FILE: the machine as NCCL draws it.

static void dump_topology(struct comm *c) {
    const char *to = getenv("NCCL_TOPO_DUMP_FILE"), *given = getenv("FAKE_NCCL_TOPOLOGY");
    const struct machine *m = machine();
    if (!to || c->rank) return;
    say(c, "ENV", "NCCL_TOPO_DUMP_FILE set by environment to %s", to);
    if (given) {
        copy_file(given, to);
        return;
    }
    FILE *f = fopen(to, "w");
    if (!f) return;
    const char *gts = m->generation == 5 ? "32.0 GT/s PCIe" : "16.0 GT/s PCIe", *nics_of = getenv("FAKE_NICS");
    int nics = nics_of ? atoi(nics_of) : 0;
    fprintf(f, "<system version=\"1\">\n");
    for (int numa = 0; numa < 2; numa++) {
        fprintf(f, "  <cpu host_hash=\"0x5be1e1f0a3c2d4e6\" numaid=\"%d\" affinity=\"%s\" arch=\"%s\" vendor=\"%s\"%s>\n", numa,
            numa ? "ffff0000" : "0000ffff", m->arm ? "arm64" : "x86_64", m->arm ? "ARM" : "GenuineIntel",
            m->arm ? "" : " familyid=\"6\" modelid=\"143\"");
        for (int r = 0; r < c->n; r++) {
            const struct peer *p = c->peers + r;
            int g = p->gpu;
            if (p->place != c->peers[c->rank].place || numa_of(g) != numa) continue;
            fprintf(f,
                "    <pci busid=\"%04x:%02x:00.0\" class=\"0x060400\" vendor=\"0x1000\" device=\"0xc030\" subsystem_vendor=\"0x1000\" subsystem_device=\"0x100b\" link_speed=\"%s\" link_width=\"16\">\n",
                domain_of(g), bus_of(g) - 1, gts);
            fprintf(f,
                "      <pci busid=\"%04x:%02x:00.0\" class=\"0x030200\" vendor=\"0x10de\" device=\"0x%s\" subsystem_vendor=\"0x10de\" subsystem_device=\"0x16c1\" link_speed=\"%s\" link_width=\"%d\">\n",
                domain_of(g), bus_of(g),
                m->major == 8   ? "20b5"
                : m->major == 9 ? "2330"
                                : "2941",
                gts, m->lanes / pcie_share(g));
            fprintf(f, "        <gpu dev=\"%d\" sm=\"%d\" rank=\"%d\" gdr=\"%d\">\n", g, m->major * 10 + m->minor, r, !m->bare);
            int up = links_up(g);
            if (m->pairs)
                fprintf(f, "          <nvlink target=\"%04x:%02x:00.0\" count=\"%d\" tclass=\"0x030200\"/>\n", domain_of(g ^ 1),
                    bus_of(g ^ 1), up);
            else
                for (int s = 0; s < 4 && m->links; s++) { // 5, 4, 4 and 5 links to the four NVSwitches
                    int n = s == 0 || s == 3 ? 5 : 4;
                    if (n > up) n = up;
                    if (n) fprintf(f, "          <nvlink target=\"0000:%02x:00.0\" count=\"%d\" tclass=\"0x068000\"/>\n", 5 + s, n);
                    up -= n;
                }
            if (m->arm) fprintf(f, "          <c2c bw=\"44712\" count=\"10\"/>\n");
            fprintf(f, "        </gpu>\n      </pci>\n");
            if (g < nics)
                fprintf(f,
                    "      <pci busid=\"%04x:%02x:00.0\" class=\"0x020700\" vendor=\"0x15b3\" device=\"0x1021\" link_speed=\"%s\" link_width=\"16\">\n        <nic>\n          <net name=\"mlx5_%d\" dev=\"%d\" latency=\"0.000000\" speed=\"%d\" port=\"1\" guid=\"0x%x\" maxconn=\"131072\" gdr=\"1\"/>\n        </nic>\n      </pci>\n",
                    domain_of(g), bus_of(g) + 1, gts, g, g, (int)(m->net * 8333), 0x1000 + g);
            fprintf(f, "    </pci>\n");
        }
        if (!nics && !numa)
            fprintf(f,
                "    <nic>\n      <net name=\"eth0\" dev=\"0\" latency=\"0.000000\" speed=\"10000\" port=\"0\" guid=\"0x0\" maxconn=\"65536\" gdr=\"0\"/>\n    </nic>\n");
        fprintf(f, "  </cpu>\n");
    }
    fprintf(f, "</system>\n");
    fclose(f);
}
