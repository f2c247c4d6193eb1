# Every call of Vagrant's own VirtualBox driver, against the VBoxManage in PATH.
# Prints a line of JSON for each: the call, and its result or what VBoxManage said.
require "json"
require "vagrant"
require "vagrant/errors"

plugins = Gem.loaded_specs["vagrant"].full_gem_path
require File.join(plugins, "plugins/providers/virtualbox/plugin")

DRIVER = VagrantPlugins::ProviderVirtualBox::Driver

module Vagrant::Util::Retryable
  def retryable(*) = yield # else what is refused is tried three times, a second apart
end

def call(name)
  result = yield
  puts JSON.generate({ call: name, result: result })
  result
rescue Vagrant::Errors::VBoxManageError => error
  said = error.extra_data[:stderr].to_s.lines.first.to_s.chomp
  puts JSON.generate({ call: name, refused: said })
  nil
rescue Vagrant::Errors::VagrantError => error
  puts JSON.generate({ call: name, error: error.class.name.split("::").last })
  nil
ensure
  $stdout.flush
end

DHCP = %i[dhcp_ip netmask dhcp_lower dhcp_upper].to_h { |key| [key, "192.0.2.2"] }

folder, port = ARGV[0], ARGV[1].to_i
disk = File.join(folder, "second.vdi")

# --- without a machine

first = DRIVER::Meta.new
call("version") { first.version }
call("verify!") { first.verify! ? "yes" : "no" }
call("read_machine_folder") { first.read_machine_folder }
call("read_bridged_interfaces") { first.read_bridged_interfaces }
call("read_host_only_interfaces") { first.read_host_only_interfaces }
call("read_dhcp_servers") { first.read_dhcp_servers }
call("vm_exists? (a machine that is gone)") { first.vm_exists?("9b1f5d6e-0000-4000-8000-000000000000") }
call("import") { first.import(File.join(folder, "box.ovf")) }
call("verify_image") { first.verify_image(File.join(folder, "box.ovf")) }
call("create_host_only_network") do
  first.create_host_only_network(adapter_ip: "192.0.2.1", netmask: "255.255.255.0")
end
call("delete_unused_host_only_networks") { first.delete_unused_host_only_networks }
call("reconfig_host_only") { first.reconfig_host_only(name: "vboxnet0", ipv6: "2001:db8::1") }
call("create_dhcp_server") { first.create_dhcp_server("vboxnet0", DHCP) }
call("remove_dhcp_server") { first.remove_dhcp_server("HostInterfaceNetworking-vboxnet0") }

# --- a machine, and what it is made of

call("execute_command (createvm)") do
  first.execute_command(["createvm", "--name", "box", "--ostype", "Debian_64", "--register"])
end
call("read_vms") { first.read_vms.keys }
uuid = first.read_vms["box"]
driver = call("Meta.new(uuid)") { DRIVER::Meta.new(uuid).tap { |d| def d.to_json(*) = '"a driver"' } }
call("vm_exists?") { driver.vm_exists?(uuid) }
call("read_state") { driver.read_state }
call("set_name") { driver.set_name("lab") && driver.read_vms.keys }
call("set_mac_address") { driver.set_mac_address("080027AABBCC") && "done" }
call("read_mac_address") { driver.read_mac_address }
call("read_mac_addresses") { driver.read_mac_addresses }
call("enable_adapters (nat)") { driver.enable_adapters([{ adapter: 2, type: :nat, nic_type: "virtio" }]) && "done" }
call("read_network_interfaces") { driver.read_network_interfaces.select { |_, nic| nic[:type] != :none } }
call("enable_adapters (bridged)") { driver.enable_adapters([{ adapter: 3, type: :bridged, bridge: "eth0" }]) }
call("enable_adapters (hostonly)") { driver.enable_adapters([{ adapter: 3, type: :hostonly, hostonly: "vboxnet0" }]) }
call("enable_adapters (intnet)") { driver.enable_adapters([{ adapter: 3, type: :intnet, intnet: "lab" }]) }
rule = { name: "ssh", hostip: "127.0.0.1", hostport: port, guestport: 22 }
call("forward_ports") { driver.forward_ports([rule]) && "done" }
call("read_forwarded_ports") { driver.read_forwarded_ports }
call("ssh_port") { driver.ssh_port(22) }

# --- guest properties, shared folders

call("read_guest_additions_version") { driver.read_guest_additions_version }
call("read_guest_property") { driver.read_guest_property("/VirtualBox/GuestInfo/OS/Product") }
call("read_guest_ip") { driver.read_guest_ip(1) }
call("share_folders") { driver.share_folders([{ name: "vagrant", hostpath: folder }]) }
call("clear_shared_folders") { driver.clear_shared_folders && "done" }

# --- disks

call("execute_command (storagectl)") do
  driver.execute_command(["storagectl", uuid, "--name", "SATA Controller", "--add", "sata"])
end
call("create_disk") { driver.create_disk(disk, 8 << 20)[/^Medium created/] }
call("attach_disk") { driver.attach_disk("SATA Controller", "1", "0", "hdd", disk) && "done" }
call("list_hdds") { driver.list_hdds.map { |hdd| hdd.slice("Disk Name", "Capacity", "State") } }
call("show_medium_info") { driver.show_medium_info("disk", disk).slice("Disk Name", "Storage format") }
number = driver.show_medium_info("disk", disk)["UUID"]
call("read_storage_controllers") do
  driver.read_storage_controllers.map { |c| [c.name, c.type, c.maxportcount, c.attachments.map { |a| a[:disk_name] }] }
end
call("get_port_and_device") { driver.get_port_and_device(number) }
call("resize_disk") { driver.resize_disk(disk, 16 << 20) }
call("clone_disk") { driver.clone_disk(disk, File.join(folder, "third.vdi"), "VDI") && "done" }
call("vdi_to_vmdk") { File.basename(driver.vdi_to_vmdk(disk)) }
call("remove_disk") { driver.remove_disk("SATA Controller", "1", "0") && "done" }
call("close_medium") { driver.close_medium(disk) && File.exist?(disk) }

# --- copies, snapshots

call("clonevm") { driver.clonevm(uuid, nil) && driver.read_vms.length }
call("clonevm (of a snapshot)") { driver.clonevm(uuid, "base") }
call("list_snapshots") { driver.list_snapshots(uuid) }
call("create_snapshot") { driver.create_snapshot(uuid, "base") }
call("restore_snapshot") { driver.restore_snapshot(uuid, "base") }
call("delete_snapshot") { driver.delete_snapshot(uuid, "base") }
call("export") { driver.export(File.join(folder, "box.ovf")) }

# --- it runs

call("start (headless)") { driver.start("headless") }
call("read_state (running)") { driver.read_state }
call("read_used_ports") { first.read_used_ports.map { |number, ips| [number == port, ips.to_a] } }
call("suspend") { driver.suspend }
driver.execute_command(["controlvm", uuid, "pause"])
call("resume") { driver.resume && driver.read_state }
call("halt") { driver.halt && driver.read_state }
call("discard_saved_state") { driver.discard_saved_state }
call("clear_forwarded_ports") { driver.clear_forwarded_ports && driver.read_forwarded_ports }
call("delete") { driver.delete && driver.read_vms.key?("lab") }
