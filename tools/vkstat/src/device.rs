//! The first Vulkan device, opened as wgpu opens it, with its statistics of pipelines.

use crate::{Result, Statistics, translate::Module};
use ash::vk;
use std::ffi::{CStr, CString};
use std::time::Instant;

pub struct Device {
    /// Name, driver, sizes of subgroups.
    pub description: String,
    device: ash::Device,
    statistics: ash::khr::pipeline_executable_properties::Device,
    varying_subgroups: bool,
    /// Edges of the square cooperative matrices with f16 inputs and f32 sums that the device lists.
    cooperative: Vec<u32>,
    // Vulkan's library must outlive what comes from it.
    _entry: ash::Entry,
}

/// Name and text of what a compiler made on the way.
type Representation = (String, Vec<u8>);

impl Device {
    pub fn open() -> Result<Self> {
        // SAFETY: a Vulkan loader is what it claims to be; all structures below live through the calls that read them.
        unsafe {
            let entry = ash::Entry::load()?;
            let app = vk::ApplicationInfo::default()
                .api_version(vk::API_VERSION_1_3)
                .application_name(c"lehr")
                .engine_name(c"wgpu-hal");
            let instance = entry.create_instance(&vk::InstanceCreateInfo::default().application_info(&app), None)?;
            let adapter = *instance.enumerate_physical_devices()?.first().ok_or("no Vulkan device")?;
            let extensions = instance.enumerate_device_extension_properties(adapter)?;
            let has = |name: &CStr| extensions.iter().any(|e| e.extension_name_as_c_str() == Ok(name));
            if !has(ash::khr::pipeline_executable_properties::NAME) {
                return Err("this driver has no VK_KHR_pipeline_executable_properties".into());
            }
            let mut subgroups = vk::PhysicalDeviceSubgroupSizeControlProperties::default();
            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut asked = vk::PhysicalDeviceProperties2::default().push_next(&mut subgroups).push_next(&mut driver);
            instance.get_physical_device_properties2(adapter, &mut asked);
            let properties = asked.properties;
            let description = format!(
                "{} | {} {} | subgroups {} to {}",
                properties.device_name_as_c_str()?.to_string_lossy(),
                driver.driver_name_as_c_str()?.to_string_lossy(),
                driver.driver_info_as_c_str()?.to_string_lossy(),
                subgroups.min_subgroup_size,
                subgroups.max_subgroup_size
            );
            let mut names = vec![ash::khr::pipeline_executable_properties::NAME.as_ptr()];
            let robust = has(ash::ext::robustness2::NAME);
            if robust {
                names.push(ash::ext::robustness2::NAME.as_ptr());
            }
            let cooperative =
                if has(ash::khr::cooperative_matrix::NAME) { cooperative(&entry, &instance, adapter)? } else { Vec::new() };
            if !cooperative.is_empty() {
                names.push(ash::khr::cooperative_matrix::NAME.as_ptr());
            }
            let varying_subgroups = properties.api_version >= vk::API_VERSION_1_3;
            let mut executables =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default().pipeline_executable_info(true);
            let mut robustness = vk::PhysicalDeviceRobustness2FeaturesEXT::default().robust_buffer_access2(robust);
            let mut thirteen = vk::PhysicalDeviceVulkan13Features::default().subgroup_size_control(true);
            let mut plain =
                vk::PhysicalDeviceFeatures2::default().features(vk::PhysicalDeviceFeatures::default().robust_buffer_access(true));
            // What modules with cooperative matrices declare; left off for the others, which must not need it.
            let mut matrices = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default().cooperative_matrix(true);
            let mut eleven = vk::PhysicalDeviceVulkan11Features::default()
                .storage_buffer16_bit_access(true)
                .uniform_and_storage_buffer16_bit_access(true);
            let mut twelve = vk::PhysicalDeviceVulkan12Features::default()
                .shader_float16(true)
                .vulkan_memory_model(true)
                .vulkan_memory_model_device_scope(true);
            let queues = [vk::DeviceQueueCreateInfo::default().queue_family_index(0).queue_priorities(&[1.0])];
            let mut wanted = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queues)
                .enabled_extension_names(&names)
                .push_next(&mut executables)
                .push_next(&mut plain);
            if varying_subgroups {
                wanted = wanted.push_next(&mut thirteen);
            }
            if robust {
                wanted = wanted.push_next(&mut robustness);
            }
            if !cooperative.is_empty() {
                wanted = wanted.push_next(&mut matrices).push_next(&mut eleven).push_next(&mut twelve);
            }
            let device = instance.create_device(adapter, &wanted, None)?;
            let statistics = ash::khr::pipeline_executable_properties::Device::new(&instance, &device);
            Ok(Self { description, device, statistics, varying_subgroups, cooperative, _entry: entry })
        }
    }

    /// Whether the device lists the cooperative matrices of a module, if it uses any.
    pub fn lists(&self, module: &Module) -> bool {
        module.cooperative.is_none_or(|edge| self.cooperative.contains(&edge))
    }

    /// Make a pipeline, and ask what each of its executables is like; where `dump` is set, also for its intermediate texts.
    pub fn compile(&self, module: &Module, dump: bool) -> Result<Vec<(Statistics, Vec<Representation>)>> {
        let device = &self.device;
        // SAFETY: the SPIR-V comes from naga, which has validated it; everything made here is destroyed here, and nothing is submitted.
        unsafe {
            let begin = Instant::now();
            let shader = device.create_shader_module(&vk::ShaderModuleCreateInfo::default().code(&module.words), None)?;
            let bindings: Vec<_> = module.bindings.iter().map(|&(number, uniform)| binding(number, uniform)).collect();
            let set =
                device.create_descriptor_set_layout(&vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings), None)?;
            let layout = device.create_pipeline_layout(&vk::PipelineLayoutCreateInfo::default().set_layouts(&[set]), None)?;
            let entry = CString::new(module.entry.clone())?;
            let varying = match self.varying_subgroups {
                true => vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE,
                false => vk::PipelineShaderStageCreateFlags::empty(),
            };
            let stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(shader)
                .name(&entry)
                .flags(varying);
            let mut flags = vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR;
            if dump {
                flags |= vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR;
            }
            let wanted = [vk::ComputePipelineCreateInfo::default().stage(stage).layout(layout).flags(flags)];
            let made = device.create_compute_pipelines(vk::PipelineCache::null(), &wanted, None);
            let milliseconds = begin.elapsed().as_secs_f64() * 1e3;
            let found = match made {
                Ok(pipelines) => {
                    let found = self.found(pipelines[0], milliseconds, dump);
                    device.destroy_pipeline(pipelines[0], None);
                    found
                }
                Err((_, error)) => Err(format!("refused: {error}").into()),
            };
            device.destroy_pipeline_layout(layout, None);
            device.destroy_descriptor_set_layout(set, None);
            device.destroy_shader_module(shader, None);
            found
        }
    }

    /// # Safety
    /// The pipeline was made by this device, with statistics captured, and representations where `dump` is set.
    unsafe fn found(
        &self,
        pipeline: vk::Pipeline,
        milliseconds: f64,
        dump: bool,
    ) -> Result<Vec<(Statistics, Vec<Representation>)>> {
        use vk::PipelineExecutableStatisticFormatKHR as Format;
        // SAFETY: as above; a statistic's union holds what its format says.
        unsafe {
            let executables =
                self.statistics.get_pipeline_executable_properties(&vk::PipelineInfoKHR::default().pipeline(pipeline))?;
            let mut all = Vec::new();
            for (index, executable) in executables.iter().enumerate() {
                let which = vk::PipelineExecutableInfoKHR::default().pipeline(pipeline).executable_index(index as u32);
                let mut found = Statistics::new();
                found.insert("wave".into(), executable.subgroup_size.to_string());
                found.insert("milliseconds".into(), milliseconds.to_string());
                for s in self.statistics.get_pipeline_executable_statistics(&which)? {
                    let value = match s.format {
                        Format::BOOL32 => s.value.b32.to_string(),
                        Format::INT64 => s.value.i64.to_string(),
                        Format::UINT64 => s.value.u64.to_string(),
                        _ => s.value.f64.to_string(),
                    };
                    found.insert(s.name_as_c_str()?.to_string_lossy().into_owned(), value);
                }
                let representations = if dump { self.representations(&which)? } else { Vec::new() };
                all.push((found, representations));
            }
            Ok(all)
        }
    }

    /// # Safety
    /// As [`Device::found`].
    unsafe fn representations(&self, which: &vk::PipelineExecutableInfoKHR<'_>) -> Result<Vec<Representation>> {
        let ask = self.statistics.fp().get_pipeline_executable_internal_representations_khr;
        let handle = self.device.handle();
        // SAFETY: asked three times, as Vulkan wants it: how many, how long, and then into buffers of that length.
        unsafe {
            let mut count = 0;
            ask(handle, which, &mut count, std::ptr::null_mut()).result()?;
            let mut list = vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
            ask(handle, which, &mut count, list.as_mut_ptr()).result()?;
            let mut buffers: Vec<Vec<u8>> = list.iter().map(|r| vec![0; r.data_size + 16]).collect();
            for (r, buffer) in list.iter_mut().zip(&mut buffers) {
                (r.data_size, r.p_data) = (buffer.len(), buffer.as_mut_ptr().cast());
            }
            ask(handle, which, &mut count, list.as_mut_ptr()).result()?;
            let named = list.iter().zip(buffers).map(|(r, buffer)| {
                let name = r.name_as_c_str()?.to_string_lossy().replace(|c: char| !c.is_alphanumeric(), "_");
                let end = buffer.iter().position(|&byte| byte == 0).unwrap_or(buffer.len());
                Ok((name, buffer[..end].to_vec()))
            });
            named.collect()
        }
    }
}

/// # Safety
/// The adapter belongs to the instance, and has the extension.
unsafe fn cooperative(entry: &ash::Entry, instance: &ash::Instance, adapter: vk::PhysicalDevice) -> Result<Vec<u32>> {
    use vk::ComponentTypeKHR as Type;
    let functions = ash::khr::cooperative_matrix::Instance::new(entry, instance);
    // SAFETY: as above.
    let listed = unsafe { functions.get_physical_device_cooperative_matrix_properties(adapter)? };
    let used = listed.iter().filter(|p| {
        let types = [p.a_type, p.b_type, p.c_type, p.result_type];
        p.scope == vk::ScopeKHR::SUBGROUP
            && [p.m_size, p.k_size] == [p.n_size; 2]
            && types == [Type::FLOAT16, Type::FLOAT16, Type::FLOAT32, Type::FLOAT32]
    });
    Ok(used.map(|p| p.m_size).collect())
}

fn binding(number: u32, uniform: bool) -> vk::DescriptorSetLayoutBinding<'static> {
    let kind = if uniform { vk::DescriptorType::UNIFORM_BUFFER } else { vk::DescriptorType::STORAGE_BUFFER };
    vk::DescriptorSetLayoutBinding::default()
        .binding(number)
        .descriptor_type(kind)
        .descriptor_count(1)
        .stage_flags(vk::ShaderStageFlags::COMPUTE)
}
